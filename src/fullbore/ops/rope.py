"""``rope``: rotary positions on interleaved pairs (2i, 2i+1), as the published checkpoints store them."""

import torch
from torch import Generator, Tensor

from fullbore.ops.contract import Case, Cost, Operator, Shape, Tolerance
from fullbore.ops.draws import draw_rows
from fullbore.ops.formats import value_bytes


def _describe() -> tuple[Shape, str]:
    return {}, "none"


def _reference(weights: tuple[()], x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """x: [tokens, heads, width]; cos, sin: [tokens, dim / 2] float32 -> x with pair i of the last ``dim``
    values of each head turned by angle i, and the values before them as they are.
    """
    still, turning = torch.split(x.float(), [x.shape[-1] - 2 * cos.shape[-1], 2 * cos.shape[-1]], dim=-1)
    pairs = torch.view_as_complex(turning.reshape(*x.shape[:-1], -1, 2).clone())
    turned = torch.view_as_real(pairs * torch.complex(cos, sin)[:, None]).flatten(-2)
    return torch.cat([still, turned], dim=-1)


def _cost(shape: Shape, format: str, dtype: str) -> Cost:
    rows = shape["tokens"] * shape["heads"]
    values = rows * (shape["nope"] + shape["dim"])
    angles = shape["tokens"] * shape["dim"]
    return Cost(3 * rows * shape["dim"], 2 * values * value_bytes(dtype) + 4 * angles)


def _draw(shape: Shape, case: str, format: str, dtype: torch.dtype, generator: Generator) -> Case:
    heads, dim = shape["heads"], shape["dim"]
    width = shape["nope"] + dim
    x = draw_rows(shape["tokens"], heads * width, case, dtype, generator).view(-1, heads, width)
    angle = 1000 * torch.rand(len(x), dim // 2, generator=generator)
    return Case((), (x, angle.cos(), angle.sin()))


ROPE = Operator(
    name="rope",
    reference=_reference,
    describe=_describe,
    cost=_cost,
    draw=_draw,
    cases=("random", "extreme_scales", "one_token"),
    formats=("none",),
    shapes=(
        {"tokens": 8, "heads": 4, "nope": 128, "dim": 64},
        {"tokens": 3, "heads": 1, "nope": 0, "dim": 6},
        {"tokens": 5, "heads": 3, "nope": 7, "dim": 34},
    ),
    tolerance={
        "float32": Tolerance(1e-6, "two products and one sum"),
        "bfloat16": Tolerance(2**-8, "computed in float32; only the output is rounded"),
    },
)
