"""Every operator states its inputs, its cost and its error so that tests and timings can be made from it."""

from collections.abc import Iterator

import pytest
import torch
from torch import Generator, Tensor

from fullbore.ops.contract import DTYPES, Case, Job, Operator, Shape
from fullbore.ops.formats import Weight
from fullbore.ops.operators import OPERATORS

ALL = pytest.mark.parametrize("operator", OPERATORS.values(), ids=list(OPERATORS))


def tensors(value: object) -> list[Tensor]:
    if isinstance(value, Tensor):
        return [value]
    if isinstance(value, Case):
        return tensors((value.weights, value.inputs))
    if isinstance(value, Weight):
        return [value.dequantise(torch.float32)]
    return [each for part in value for each in tensors(part)] if isinstance(value, tuple | list) else []


def draws(operator: Operator, case: str) -> Iterator[tuple[Shape, Case]]:
    for shape in operator.shapes:
        yield (
            shape,
            operator.draw(shape, case, operator.formats[0], torch.float32, Generator().manual_seed(5)),
        )


@ALL
def test_inputs_are_finite_repeatable_and_of_the_stated_type(operator: Operator) -> None:
    for format in operator.formats:
        for case in operator.cases:
            for shape in operator.shapes:
                one, two = (
                    operator.draw(shape, case, format, DTYPES["bfloat16"], generator)
                    for generator in (Generator().manual_seed(3) for _ in range(2))
                )
                for first, second in zip(tensors(one), tensors(two), strict=True):
                    assert torch.equal(first, second)
                    assert bool(first.isfinite().all())
                    assert len(first)
                allowed = (torch.bfloat16, torch.float32, torch.int64, torch.int32, torch.uint8)
                if operator.name == "sample":  # whose shares of a distribution are float64
                    allowed += (torch.float64,)
                assert all(each.dtype in allowed for each in tensors(one.inputs))
                assert bool(operator.reference(one.weights, *one.inputs)[0].isfinite().all())


@ALL
def test_one_token_is_one_row(operator: Operator) -> None:
    assert "one_token" in operator.cases
    for _, drawn in draws(operator, "one_token"):
        assert len(tensors(drawn.inputs)[0]) == 1


@ALL
def test_extreme_scales_span_decades(operator: Operator) -> None:
    if "extreme_scales" not in operator.cases:
        assert operator.name == "embed"  # which only copies
        return
    rows = [drawn.inputs[0].flatten(1) for _, drawn in draws(operator, "extreme_scales")]
    sizes = torch.cat([each.square().mean(1).sqrt() for each in rows])
    assert float(sizes.max()) > 300 * float(sizes.min())


def test_attention_is_drawn_over_scattered_pages_that_nobody_shares() -> None:
    for shape, drawn in draws(OPERATORS["mla_prefill"], "random"):
        pages = drawn.inputs[2].tolist()
        assert len(set(pages)) == len(pages)
        assert pages != sorted(pages)
        assert drawn.inputs[3] == shape["first"]
    assert all(drawn.inputs[3] == 0 for _, drawn in draws(OPERATORS["mla_prefill"], "no_prefix"))
    for case in ("random", "skewed"):
        for shape, drawn in draws(OPERATORS["mla_decode"], case):
            _, cache, table, contexts = drawn.inputs
            used = [
                page
                for row, count in zip(table.tolist(), contexts.tolist(), strict=True)
                for page in row[: -(-count // cache.shape[1])]
            ]
            assert len(set(used)) == len(used)
            if case == "skewed":
                assert sorted(contexts.tolist()) == [1] * (shape["rows"] - 1) + [shape["context"]]


def test_experts_are_drawn_as_uneven_as_they_come() -> None:
    for shape, drawn in draws(OPERATORS["moe_ffn"], "skewed"):
        experts = shape.get("of", shape["experts"])
        loads = drawn.inputs[1].flatten().bincount(minlength=experts)
        assert shape["k"] == experts or int(loads.min()) == 0
    for shape, drawn in draws(OPERATORS["moe_ffn"], "one_expert"):
        assert set(drawn.inputs[1].flatten().tolist()) == {shape.get("of", shape["experts"]) // 2}
    for case in OPERATORS["moe_ffn"].cases:
        for _, drawn in draws(OPERATORS["moe_ffn"], case):
            assert all(len(set(row)) == len(row) for row in drawn.inputs[1].tolist())


def test_negative_routing_leaves_no_score_above_a_mask_of_zero() -> None:
    for _, drawn in draws(OPERATORS["route"], "negative"):
        gate, bias, _ = drawn.weights
        assert float((torch.sigmoid(drawn.inputs[0] @ gate.T) + bias).max()) < 0
    assert all(not drawn.weights[2].norm_topk_prob for _, drawn in draws(OPERATORS["route"], "unnormalised"))


@ALL
def test_the_described_job_is_the_drawn_one(operator: Operator) -> None:
    for shape in operator.shapes:
        for format in operator.formats:
            drawn = operator.draw(shape, operator.cases[0], format, DTYPES["float32"], Generator())
            job = Job.of(operator, drawn.weights, "float32", "cpu")
            assert job.format == format
            assert dict(job.shape).items() <= shape.items()


@ALL
def test_a_reference_agrees_with_itself_and_with_nothing_else(operator: Operator) -> None:
    generator = Generator().manual_seed(8)
    shape, format = operator.shapes[0], operator.formats[0]
    drawn = operator.draw(shape, operator.cases[0], format, DTYPES["float32"], generator)
    expected = operator.reference(drawn.weights, *drawn.inputs)
    assert operator.error(expected, expected) == 0
    other = operator.draw(shape, operator.cases[0], format, DTYPES["float32"], generator)
    wrong = operator.reference(other.weights, *other.inputs)
    assert operator.error(wrong, expected) > 10 * operator.limit(format, "bfloat16")
