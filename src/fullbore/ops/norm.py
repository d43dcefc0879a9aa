"""``rms_norm``: x / sqrt(mean(x^2) + eps) * weight (Zhang and Sennrich 2019; config: rms_norm_eps)."""

import torch
from torch import Generator, Tensor

from fullbore.ops.contract import Case, Cost, Operator, Shape, Tolerance
from fullbore.ops.draws import ARITHMETIC, draw_rows
from fullbore.ops.formats import value_bytes


def _describe(weight: Tensor, eps: float) -> tuple[Shape, str]:
    return {"width": weight.shape[0]}, "none"


def _reference(weights: tuple[Tensor, float], x: Tensor) -> Tensor:
    """x: [tokens, width] -> [tokens, width]."""
    weight, eps = weights
    return x.float() * (x.float().square().mean(-1, keepdim=True) + eps).rsqrt() * weight.float()


def _cost(shape: Shape, format: str, dtype: str) -> Cost:
    values = shape["tokens"] * shape["width"]
    return Cost(4 * values, 2 * values * value_bytes(dtype) + 4 * shape["width"])


def _draw(shape: Shape, case: str, format: str, dtype: torch.dtype, generator: Generator) -> Case:
    weight = 1.0 + 0.3 * torch.randn(shape["width"], generator=generator)
    return Case((weight, 1e-6), (draw_rows(shape["tokens"], shape["width"], case, dtype, generator),))


RMS_NORM = Operator(
    name="rms_norm",
    reference=_reference,
    describe=_describe,
    cost=_cost,
    draw=_draw,
    cases=("random", "extreme_scales", "one_token"),
    formats=("none",),
    shapes=({"tokens": 8, "width": 256}, {"tokens": 5, "width": 33}),
    tolerance={
        "float32": ARITHMETIC["float32"],
        "bfloat16": Tolerance(2**-8, "computed in float32; only the output is rounded"),
    },
)
