"""The roofline's two numbers: what the reference multiplies, and the bytes of what it reads and writes."""

from collections.abc import Iterator
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from fullbore.ops.collectives import COLLECTIVES
from fullbore.ops.contract import DTYPES, Operator, Shape
from fullbore.ops.formats import Weight, matrix_bytes
from fullbore.ops.operators import OPERATORS

ALL = pytest.mark.parametrize("operator", OPERATORS.values(), ids=list(OPERATORS))


def sizes(operator: Operator) -> st.SearchStrategy[dict[str, int]]:
    """Shapes like the operator's own, each size free; what must hold between sizes still does."""
    names = list(operator.shapes[0])

    def mend(shape: dict[str, int]) -> dict[str, int]:
        if "k" in shape:
            shape["k"] = min(shape["k"], shape.get("experts", shape.get("slots", 1)))
        return shape

    return st.fixed_dictionaries({name: st.integers(1, 300) for name in names}).map(mend)


@ALL
@settings(max_examples=40)
@given(st.data())
def test_cost_is_positive_and_no_size_makes_it_fall(operator: Operator, data: st.DataObject) -> None:
    shape = data.draw(sizes(operator))
    grown = data.draw(st.sampled_from(sorted(shape)))
    factor = data.draw(st.integers(2, 9))
    if grown == "k":
        factor = max(1, shape["experts"] // shape["k"])
    for format in operator.formats:
        for dtype in DTYPES:
            base = operator.cost(shape, format, dtype)
            more = operator.cost({**shape, grown: factor * shape[grown]}, format, dtype)
            assert base.bytes > 0
            assert (base.flops > 0) == (operator.name not in {"embed", *COLLECTIVES})  # which only copy
            assert more.flops >= base.flops
            assert more.bytes >= base.bytes
    if grown in ("tokens", "rows") and factor > 1:
        assert more.bytes > base.bytes


@ALL
def test_bfloat16_moves_less_than_float32(operator: Operator) -> None:
    for shape in operator.shapes:
        for format in operator.formats:
            small, large = (operator.cost(shape, format, dtype) for dtype in ("bfloat16", "float32"))
            assert small.flops == large.flops
            assert small.bytes < large.bytes


def counted(operator: Operator, shape: Shape, case: str, generator: torch.Generator) -> int:
    """Floating-point operations of the matrix products that the reference really makes."""
    drawn = operator.draw(shape, case, operator.formats[0], torch.float32, generator)
    with FlopCounterMode(display=False) as counter:
        operator.reference(drawn.weights, *drawn.inputs)
    return int(counter.get_total_flops())


@pytest.mark.parametrize("name", ["linear", "swiglu", "moe_ffn", "route"])
def test_flops_are_those_of_the_references_products(name: str) -> None:
    operator, generator = OPERATORS[name], torch.Generator().manual_seed(2)
    for shape in operator.shapes:
        flops = operator.cost(shape, operator.formats[0], "float32").flops
        assert flops == counted(operator, shape, "random", generator)


def test_attention_costs_the_cheaper_of_its_two_ways() -> None:
    operator, generator = OPERATORS["mla_prefill"], torch.Generator().manual_seed(2)
    for shape in operator.shapes:
        tokens, values = shape["tokens"], shape["nope"] + shape["rope"] + shape["v"]
        # without a prefix nothing is saved by absorbing, so only the reference's masked pairs are too many
        future = tokens * (tokens - 1) // 2 * shape["heads"]
        whole = {**shape, "first": 0}
        expanded = counted(operator, whole, "random", generator) - 2 * future * values
        assert operator.cost(whole, "fp32", "float32").flops == expanded
        # behind a long one, a token had better not expand every key
        late = {**shape, "tokens": 1, "first": 300}
        prefill = operator.cost(late, "fp32", "float32")
        assert prefill.flops < counted(operator, late, "random", generator) / 2
        decode = OPERATORS["mla_decode"].cost({**shape, "rows": 1, "context": 301}, "fp32", "float32")
        assert decode == prefill


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(("bits", "bytes"), [(0, None), (8, 656), (16, 1152)])
def test_attention_reads_each_key_as_it_is_stored(dtype: str, bits: int, bytes: int | None) -> None:
    shape = {"heads": 16, "nope": 128, "rope": 64, "v": 128, "latent": 512} | (
        {"kv_bits": bits} if bits else {}
    )
    row = bytes or 576 * DTYPES[dtype].itemsize
    for name, rows, keys in (("mla_decode", "rows", "context"), ("mla_prefill", "tokens", "first")):
        short, long = (OPERATORS[name].cost({**shape, rows: 3, keys: n}, "bf16", dtype) for n in (50, 60))
        assert long.bytes - short.bytes == 10 * row * (3 if name == "mla_decode" else 1)
    one, two = (OPERATORS["latents"].cost({**shape, "q": 0, "tokens": n}, "none", dtype) for n in (1, 2))
    assert two.bytes - one.bytes == 576 * DTYPES[dtype].itemsize + 64 * 4 + 8 + row


def tensors(value: Any) -> Iterator[Tensor]:
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, Weight):
        four_bits = value.integer is not None and value.integer.bits == 4
        yield value.data[:, ::2] if four_bits else value.data  # two of them share a byte
        if value.scale is not None:
            yield value.scale
    elif isinstance(value, tuple | list):
        for part in value:
            yield from tensors(part)


@pytest.mark.parametrize(
    "name", ["linear", "swiglu", "rms_norm", "add_rms_norm", "rope", "moe_ffn", "route", "greedy"]
)
@pytest.mark.parametrize("dtype", DTYPES)
def test_bytes_are_those_of_inputs_weights_and_output(name: str, dtype: str) -> None:
    operator, generator = OPERATORS[name], torch.Generator().manual_seed(6)
    for shape in operator.shapes:
        for format in operator.formats:
            drawn = operator.draw(shape, "random", format, DTYPES[dtype], generator)
            output = operator.reference(drawn.weights, *drawn.inputs)
            moved = sum(
                tensor.numel() * tensor.itemsize for tensor in tensors((*drawn.weights, *drawn.inputs))
            )
            if name in ("route", "greedy"):
                moved += sum(tensor.nbytes for tensor in tensors(output))
            else:  # kernels round to the activations' type
                moved += sum(tensor.numel() * DTYPES[dtype].itemsize for tensor in tensors(output))
            known = {**shape, "touched": shape["experts"]} if name == "moe_ffn" else shape
            assert operator.cost(known, format, dtype).bytes == moved


@given(st.integers(2, 64), st.data())
def test_experts_that_nobody_chose_are_not_read(experts: int, data: st.DataObject) -> None:
    k, tokens = data.draw(st.integers(1, experts)), data.draw(st.integers(1, 200))
    shape = {"tokens": tokens, "hidden": 64, "inter": 32, "experts": experts, "k": k, "shared": 0}
    cost = OPERATORS["moe_ffn"].cost
    one = 3 * matrix_bytes(32, 64, "bf16")
    uniform, every = (cost(each, "bf16", "float32").bytes for each in (shape, {**shape, "touched": experts}))
    assert 0 <= every - uniform <= (experts - min(k, tokens * k)) * one
    touched = [cost({**shape, "touched": n}, "bf16", "float32").bytes for n in (1, 2)]
    assert touched[1] - touched[0] == one
