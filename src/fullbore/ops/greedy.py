"""``greedy``: the likeliest token of each row of logits, and whether the row can be trusted at all."""

import torch
from torch import Generator, Tensor

from fullbore.ops.contract import Case, Cost, Operator, Shape, Tolerance
from fullbore.ops.draws import draw_rows
from fullbore.ops.formats import value_bytes

NOT_FINITE = -1  # instead of a token, where a logit is nan or infinite


def _describe(vocab: int) -> tuple[Shape, str]:
    return {"vocab": vocab}, "none"


def _reference(weights: tuple[int], logits: Tensor) -> Tensor:
    """logits: [rows, vocab] -> [rows] int64: the lowest of the best ids, or ``NOT_FINITE``."""
    best = logits.amax(1, keepdim=True)
    first = (logits == best).int().argmax(1)  # torch promises no order among equals but gives the first
    return torch.where(logits.isfinite().all(1), first, NOT_FINITE)


def _cost(shape: Shape, format: str, dtype: str) -> Cost:
    values = shape["rows"] * shape["vocab"]
    return Cost(values, values * value_bytes(dtype) + 8 * shape["rows"])


def _draw(shape: Shape, case: str, format: str, dtype: torch.dtype, generator: Generator) -> Case:
    """``ties``: every row has many best tokens."""
    logits = draw_rows(shape["rows"], shape["vocab"], case, dtype, generator)
    if case == "ties":
        logits = logits.clamp(-1.0, 1.0).round()
    return Case((shape["vocab"],), (logits,))


def _error(output: Tensor, reference: Tensor) -> float:
    """The fraction of rows that got another token."""
    return float((output != reference).double().mean())


GREEDY = Operator(
    name="greedy",
    reference=_reference,
    describe=_describe,
    cost=_cost,
    draw=_draw,
    cases=("random", "ties", "extreme_scales", "one_token"),
    formats=("none",),
    shapes=({"rows": 5, "vocab": 1000}, {"rows": 3, "vocab": 37}, {"rows": 9, "vocab": 1}),
    tolerance={dtype: Tolerance(0.0, "a token is right or wrong") for dtype in ("float32", "bfloat16")},
    error=_error,
)
