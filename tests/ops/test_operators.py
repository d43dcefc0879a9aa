"""Every operator states its inputs, its cost and its error so that tests and timings can be made from it."""

import pytest
import torch
from torch import Tensor

from fullbore.ops.contract import DTYPES, Job, Operator, worst_row_error
from fullbore.ops.operators import OPERATORS

ALL = pytest.mark.parametrize("operator", OPERATORS.values(), ids=list(OPERATORS))


def tensors(value: object) -> list[Tensor]:
    if isinstance(value, Tensor):
        return [value]
    return [each for part in value for each in tensors(part)] if isinstance(value, tuple | list) else []


@ALL
def test_inputs_are_finite_repeatable_and_of_the_stated_type(operator: Operator) -> None:
    for format in operator.formats:
        for case in operator.cases:
            one, two = (
                operator.draw(operator.shapes[0], case, format, DTYPES["bfloat16"], generator)
                for generator in (torch.Generator().manual_seed(3) for _ in range(2))
            )
            for first, second in zip(tensors(one.inputs), tensors(two.inputs), strict=True):
                assert torch.equal(first, second)
                assert bool(first.isfinite().all())
                assert first.dtype in (torch.bfloat16, torch.float32, torch.int64, torch.int32)


@ALL
def test_the_described_job_is_the_drawn_one(operator: Operator) -> None:
    for shape in operator.shapes:
        for format in operator.formats:
            drawn = operator.draw(shape, operator.cases[0], format, DTYPES["float32"], torch.Generator())
            job = Job.of(operator, drawn.weights, "float32", "cpu")
            assert job.format == format
            assert dict(job.shape).items() <= shape.items()


@ALL
def test_cost_grows_with_every_size(operator: Operator) -> None:
    for shape in operator.shapes:
        for format in operator.formats:
            for dtype in DTYPES:
                base = operator.cost(shape, format, dtype)
                assert base.flops >= 0
                assert base.bytes > 0
                if "tokens" in shape:
                    more = operator.cost({**shape, "tokens": 2 * shape["tokens"]}, format, dtype)
                    assert more.flops == 2 * base.flops or operator.name == "mla_prefill"
                    assert more.flops >= base.flops
                    assert more.bytes > base.bytes


@ALL
def test_a_reference_agrees_with_itself_and_with_nothing_else(operator: Operator) -> None:
    generator = torch.Generator().manual_seed(8)
    shape, format = operator.shapes[0], operator.formats[0]
    drawn = operator.draw(shape, operator.cases[0], format, DTYPES["float32"], generator)
    expected = operator.reference(drawn.weights, *drawn.inputs)
    assert operator.error(expected, expected) == 0
    other = operator.draw(shape, operator.cases[0], format, DTYPES["float32"], generator)
    wrong = operator.reference(other.weights, *other.inputs)
    assert operator.error(wrong, expected) > 10 * operator.limit(format, "bfloat16")


def test_a_small_row_is_not_hidden_by_a_large_one() -> None:
    reference = torch.tensor([[1e6, 1e6], [1e-6, 1e-6]])
    output = reference.clone()
    output[1] *= 1.5
    assert worst_row_error(output, reference) == pytest.approx(0.5, rel=1e-6)
    output[1, 0] = float("nan")
    assert worst_row_error(output, reference) == float("inf")
