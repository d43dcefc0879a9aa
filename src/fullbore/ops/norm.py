"""``rms_norm``: x / sqrt(mean(x^2) + eps) * weight (Zhang and Sennrich 2019; config: rms_norm_eps);
and ``add_rms_norm``, which first adds what a layer made to the residual stream.
"""

import torch
from torch import Generator, Tensor

from fullbore.ops.contract import Case, Cost, Operator, Shape, Tolerance, worst_row_error
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


def _add_reference(weights: tuple[Tensor, float], x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
    """x, y: [tokens, width] -> x + y as activations are stored, and its norm."""
    total = (x.float() + y.float()).to(x.dtype)
    return total.float(), _reference(weights, total)


def _add_cost(shape: Shape, format: str, dtype: str) -> Cost:
    values = shape["tokens"] * shape["width"]
    return Cost(5 * values, 4 * values * value_bytes(dtype) + 4 * shape["width"])


def _add_draw(shape: Shape, case: str, format: str, dtype: torch.dtype, generator: Generator) -> Case:
    one, other = (_draw(shape, case, format, dtype, generator) for _ in range(2))
    return Case(one.weights, one.inputs + other.inputs)


def _add_error(output: tuple[Tensor, Tensor], reference: tuple[Tensor, Tensor]) -> float:
    return max(map(worst_row_error, output, reference))


_CASES = ("random", "extreme_scales", "one_token")
_SHAPES = ({"tokens": 8, "width": 256}, {"tokens": 5, "width": 33})
_TOLERANCE = {
    "float32": ARITHMETIC["float32"],
    "bfloat16": Tolerance(2**-8, "computed in float32; only the output is rounded"),
}

RMS_NORM = Operator(
    name="rms_norm",
    reference=_reference,
    describe=_describe,
    cost=_cost,
    draw=_draw,
    cases=_CASES,
    formats=("none",),
    shapes=_SHAPES,
    tolerance=_TOLERANCE,
)

ADD_RMS_NORM = Operator(
    name="add_rms_norm",
    reference=_add_reference,
    describe=_describe,
    cost=_add_cost,
    draw=_add_draw,
    cases=_CASES,
    formats=("none",),
    shapes=_SHAPES,
    tolerance=_TOLERANCE,
    error=_add_error,
)
