"""Every Triton kernel against its operator's float32 reference: in Triton's interpreter, or on a GPU with
TRITON_INTERPRET=0."""

from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch import Tensor

from fullbore.kernels.triton import KERNELS
from fullbore.ops.contract import DTYPES, Case, Job, Kernel, Operator, Shape
from fullbore.ops.operators import OPERATORS
from fullbore.ops.registry import Entry

pytest.importorskip("triton", reason="triton is not installed (pip install 'fullbore[gpu]')")

from fullbore.kernels.triton.device import CDNA_LOCAL_BYTES, HOPPER_LOCAL_BYTES, Target

ENTRIES = pytest.mark.parametrize("entry", KERNELS, ids=lambda entry: f"{entry.operator}-{entry.name}")


def moved(value: Any, device: str) -> Any:
    """The same inputs on the device."""
    if isinstance(value, tuple):
        return tuple(moved(each, device) for each in value)
    return value.to(device) if isinstance(value, Tensor) else value


def back(value: Any) -> Any:
    return moved(value, "cpu")


def drawn(operator: Operator, kernel: type[Kernel]) -> Iterator[tuple[str, str, Shape, str, Case]]:
    """(format, type, shape, case, inputs): every shape and case in the first format and type, a ragged shape
    in the others. Of a kernel that differs from another in sizes alone one shape in the first and the last.
    """
    generator = torch.Generator().manual_seed(12)
    ways = [(format, dtype) for format in kernel.formats for dtype in kernel.dtypes]
    if kernel.family:
        ways = list(dict.fromkeys((ways[0], ways[-1])))
    for format, dtype in ways:
        first = (format, dtype) == ways[0] and not kernel.family
        shapes = operator.shapes if first else operator.shapes[:1] if kernel.family else operator.shapes[1:2]
        for shape in shapes:
            for case in operator.cases if first else operator.cases[:1]:
                inputs = operator.draw(shape, case, format, DTYPES[dtype], generator)
                yield format, dtype, shape, case, inputs


@ENTRIES
def test_kernel_agrees_with_the_reference(entry: Entry) -> None:
    kernel, operator = entry.load(), OPERATORS[entry.operator]
    ran = set()
    for format, dtype, shape, case, inputs in drawn(operator, kernel):
        job = Job.of(operator, inputs.weights, dtype, "cuda")
        if kernel.unsupported(job):
            continue
        made = kernel(dtype)
        expected = operator.reference(inputs.weights, *inputs.inputs)
        given = moved(inputs.inputs, made.target.device)
        error = operator.error(back(made.run(made.pack(*inputs.weights), *given)), expected)
        limit = operator.limit(format, dtype, kernel.rounds)
        assert error <= limit, f"{format} {dtype} {case} {dict(shape)}: {error:.2e} > {limit:.2e}"
        ran.add((format, dtype))
    assert len(ran) == min(2 if kernel.family else 99, len(kernel.formats) * len(kernel.dtypes))


@ENTRIES
def test_a_cpu_is_refused_with_a_reason(entry: Entry) -> None:
    kernel, operator = entry.load(), OPERATORS[entry.operator]
    format, dtype, _, _, inputs = next(drawn(operator, kernel))
    reasons = kernel.unsupported(Job.of(operator, inputs.weights, dtype, "cpu"))
    assert reasons == ["runs on cuda, not on cpu"], (format, dtype)


@ENTRIES
def test_what_does_not_fit_is_refused_with_a_reason(entry: Entry) -> None:
    """Kernels with sizes of their own are for large local memory alone, or for every GPU."""
    kernel, operator = entry.load(), OPERATORS[entry.operator]
    format, dtype, _, _, inputs = next(drawn(operator, kernel))
    job = Job.of(operator, inputs.weights, dtype, "cuda")
    assert kernel.misfits(job, Target("cuda", 132, HOPPER_LOCAL_BYTES)) == []
    reasons = kernel.misfits(job, Target("cuda", 304, CDNA_LOCAL_BYTES, fnuz=True))
    told = ["has tiles for 227 KiB of local memory, and there are 64 KiB"]
    assert reasons == (told if dict(entry.constants).get("hopper") else []), format
