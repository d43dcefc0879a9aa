"""``draw_experts``: which experts a token goes to, drawn from a table of their popularity, not computed: the
balance of a load is then chosen, whatever the weights are (``parallel.balance``)."""

import torch
from torch import Generator, Tensor

from fullbore.ops.contract import Case, Cost, Operator, Shape, Tolerance
from fullbore.ops.draws import draw_rows
from fullbore.ops.formats import value_bytes

# Of a linear congruential generator and a xor-shift, as 32-bit arithmetic has them.
ROW, BITS, MIX = 0x9E3779B1, 0x85EBCA6B, 0xC2B2AE35
_WORD = 0xFFFFFFFF


def _describe(table: Tensor, chosen: int) -> tuple[Shape, str]:
    return {"slots": len(table), "k": chosen}, "none"


def drawn(table: Tensor, chosen: int, x: Tensor) -> Tensor:
    """x: [tokens, hidden], of which a token's first value and its place in the step decide -> ids [tokens,
    chosen] int64. table: [slots]; every (slots / chosen)-th from a random place on is a choice."""
    wide = x.dtype is torch.float32
    bits = x[:, 0].contiguous().view(torch.int32 if wide else torch.int16).to(torch.int64) & 0xFFFF
    row = torch.arange(len(x), device=x.device)
    word = (row * ROW + (bits + 1) * BITS) & _WORD
    word = ((word ^ (word >> 15)) * MIX) & _WORD
    word = word ^ (word >> 13)
    each = len(table) // chosen
    places = (word[:, None] + each * torch.arange(chosen, device=x.device)) % len(table)
    return table[places].to(torch.int64)


def _reference(weights: tuple[Tensor, int], x: Tensor) -> Tensor:
    return drawn(*weights, x)


def _cost(shape: Shape, format: str, dtype: str) -> Cost:
    read = shape["tokens"] * value_bytes(dtype) + 4 * min(shape["slots"], shape["tokens"] * shape["k"])
    return Cost(shape["tokens"] * shape["k"], read + 8 * shape["tokens"] * shape["k"])


def _draw(shape: Shape, case: str, format: str, dtype: torch.dtype, generator: Generator) -> Case:
    each, k = -(-shape["slots"] // shape["k"]), shape["k"]
    table = torch.randint(each, (each * k,), generator=generator, dtype=torch.int32)
    return Case((table, k), (draw_rows(shape["tokens"], shape["hidden"], case, dtype, generator),))


def _error(output: Tensor, reference: Tensor) -> float:
    """The fraction of choices that differ."""
    return float((output != reference).double().mean())


DRAW_EXPERTS = Operator(
    name="draw_experts",
    reference=_reference,
    describe=_describe,
    cost=_cost,
    draw=_draw,
    cases=("random", "extreme_scales", "one_token"),
    formats=("none",),
    shapes=(
        {"tokens": 16, "hidden": 24, "slots": 64, "k": 4},
        {"tokens": 9, "hidden": 7, "slots": 999, "k": 3},
    ),
    tolerance={dtype: Tolerance(0.0, "whole numbers") for dtype in ("float32", "bfloat16")},
    error=_error,
)
