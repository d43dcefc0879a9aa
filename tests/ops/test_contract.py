"""What tests and timings rest on: errors row by row, limits, jobs read from shapes alone, packed bytes."""

from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from fullbore.ops.contract import Job, Kernel, Operator, Tolerance, packed_bytes, worst_row_error
from fullbore.ops.ffn import Expert
from fullbore.ops.formats import Weight
from fullbore.ops.operators import OPERATORS

ALL = pytest.mark.parametrize("operator", OPERATORS.values(), ids=list(OPERATORS))


@given(st.integers(1, 9), st.integers(1, 9), st.floats(1e-6, 1.0), st.integers(-30, 20), st.data())
def test_an_error_is_found_in_whichever_row_it_is(
    rows: int, width: int, error: float, power: int, data: st.DataObject
) -> None:
    """However small the row beside the others: each is measured against itself."""
    generator = torch.Generator().manual_seed(data.draw(st.integers(0, 99)))
    reference = torch.randn(rows, width, dtype=torch.float64, generator=generator) + 2.0
    wrong = data.draw(st.integers(0, rows - 1))
    reference[wrong] *= 2.0**power
    output = reference.clone()
    output[wrong] *= 1 + error
    assert worst_row_error(output, reference) == pytest.approx(error, rel=1e-6)
    assert worst_row_error(reference, reference) == 0


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -float("inf")])
def test_what_is_no_number_is_infinitely_wrong(bad: float) -> None:
    reference = torch.ones(3, 4)
    output = reference.clone()
    output[1, 2] = bad
    assert worst_row_error(output, reference) > 1e300
    assert worst_row_error(reference, output) == float("inf")


def test_a_row_of_zeros_must_be_zeros() -> None:
    reference = torch.zeros(2, 4)
    assert worst_row_error(reference.clone(), reference) == 0
    assert worst_row_error(reference + 1e-6, reference) > 1


def test_rows_are_the_last_dimension_of_any_shape() -> None:
    reference = torch.ones(2, 3, 4)
    output = reference.clone()
    output[1, 1] *= 1.25
    assert worst_row_error(output, reference) == pytest.approx(0.25)
    with pytest.raises(RuntimeError, match="shape"):
        worst_row_error(torch.ones(2, 3, 5), reference)


def test_a_kernel_that_rounds_activations_loosens_no_other() -> None:
    linear = OPERATORS["linear"]
    plain = linear.limit("fp8_block", "bfloat16")
    assert linear.limit("fp8_block", "bfloat16", "e4m3") == linear.tolerance["e4m3"].relative > plain
    assert plain == linear.tolerance["bfloat16"].relative
    with pytest.raises(KeyError):
        linear.limit("fp8_block", "bfloat16", "e9m9")


def test_a_format_whose_arithmetic_is_coarser_has_its_own_limit() -> None:
    linear = OPERATORS["linear"]
    assert linear.limit("bf16", "float32") == linear.tolerance["float32"].relative
    coarse = replace(linear, tolerance={**linear.tolerance, "int8, bfloat16": Tolerance(0.1, "8 bits")})
    assert coarse.limit("int8", "bfloat16") == 0.1
    assert coarse.limit("int8", "float32") == linear.tolerance["float32"].relative
    assert coarse.limit("bf16", "bfloat16") == linear.tolerance["bfloat16"].relative


@ALL
def test_every_tolerance_gives_its_reason_and_float32_is_the_tighter(operator: Operator) -> None:
    assert {"float32", "bfloat16"} <= set(operator.tolerance)
    assert all(tolerance.reason for tolerance in operator.tolerance.values())
    assert operator.limit(operator.formats[0], "float32") <= operator.limit(operator.formats[0], "bfloat16")


def without_values(value: Any) -> Any:
    """The same weights on torch's meta device, where there are shapes and types but nothing to read."""
    if isinstance(value, Tensor):
        return value.to("meta")
    if isinstance(value, Weight):
        scale = None if value.scale is None else value.scale.to("meta")
        return replace(value, data=value.data.to("meta"), scale=scale)
    if isinstance(value, tuple | list):
        return type(value)(without_values(part) for part in value)
    return value


@ALL
def test_a_job_is_read_from_shapes_alone(operator: Operator) -> None:
    for shape in operator.shapes:
        for format in operator.formats:
            weights = operator.draw(
                shape, operator.cases[0], format, torch.float32, torch.Generator()
            ).weights
            job = Job.of(operator, weights, "float32", "cpu")
            assert Job.of(operator, without_values(weights), "float32", "cpu") == job
            assert job.shape == tuple(sorted(job.shape))
            assert not {"tokens", "rows", "context", "first"} & {name for name, _ in job.shape}


def test_the_job_of_experts_asks_for_one_of_them() -> None:
    """They may be loaded as they are asked for: 256 of them would fill the memory."""

    class Lazy(Sequence[Expert]):
        asked: int = 0

        def __len__(self) -> int:
            return 257

        def __getitem__(self, index: Any) -> Any:
            self.asked += 1
            return tuple(Weight(torch.empty(shape, device="meta")) for shape in ((8, 16), (8, 16), (16, 8)))

        def __iter__(self) -> Iterator[Expert]:
            raise AssertionError("all experts were read")

    experts = Lazy()
    job = Job.of(OPERATORS["moe_ffn"], (experts, 256), "float32", "cpu")
    assert dict(job.shape) == {"experts": 256, "hidden": 16, "inter": 8, "shared": 8}
    assert experts.asked == 2


def test_packed_bytes_are_of_all_tensors_at_any_depth() -> None:
    assert packed_bytes(torch.zeros(3, 5)) == 60
    assert (
        packed_bytes((torch.zeros(2, dtype=torch.bfloat16), "name", 7, [torch.zeros(4), (None,)])) == 4 + 16
    )
    assert packed_bytes(torch.zeros(100)[:5]) == 400  # what a view holds on to


def test_a_kernel_names_each_thing_that_it_cannot_do() -> None:
    class OnCuda(Kernel):
        name, operator, layout = "fast", "linear", "tiles"
        devices, formats, dtypes = ("cuda",), ("fp8_block",), ("bfloat16",)

        def run(self, packed: Any, *inputs: Any) -> Any:
            raise NotImplementedError

    def reasons(format: str, dtype: str, device: str) -> str:
        return "; ".join(OnCuda.unsupported(Job("linear", (), format, dtype, device)))

    assert reasons("fp8_block", "bfloat16", "cuda") == ""
    assert "cpu" in reasons("fp8_block", "bfloat16", "cpu")
    assert "as fp8_block, not as bf16" in reasons("bf16", "bfloat16", "cuda")
    assert "float32" in reasons("fp8_block", "float32", "cuda")
    assert reasons("bf16", "float32", "cpu").count("; ") == 2
