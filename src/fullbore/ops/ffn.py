"""``swiglu``: the dense feed-forward, also of the shared experts: down(silu(gate(x)) * up(x))."""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Generator, Tensor

from fullbore.ops.contract import Case, Cost, Operator, Shape
from fullbore.ops.draws import ARITHMETIC, WEIGHT_FORMATS, draw_rows, draw_weight
from fullbore.ops.formats import Weight, matrix_bytes, value_bytes

Expert = tuple[Weight, Weight, Weight]  # gate [inter, hidden], up [inter, hidden], down [hidden, inter]


def swiglu_reference(weights: Expert, x: Tensor) -> Tensor:
    """x: [tokens, hidden] -> [tokens, hidden]."""
    gate, up, down = (weight.dequantise(torch.float32) for weight in weights)
    return (F.silu(x.float() @ gate.T) * (x.float() @ up.T)) @ down.T


def draw_expert(shape: Shape, format: str, generator: Generator) -> Expert:
    """Gate, up and down of ``shape["inter"]`` x ``shape["hidden"]``."""
    inter, hidden = shape["inter"], shape["hidden"]
    gate, up = (draw_weight(inter, hidden, format, generator) for _ in range(2))
    return gate, up, draw_weight(hidden, inter, format, generator)


def expert_bytes(shape: Shape, format: str) -> int:
    """Bytes of gate, up and down."""
    inter, hidden = shape["inter"], shape["hidden"]
    return 2 * matrix_bytes(inter, hidden, format) + matrix_bytes(hidden, inter, format)


def _describe(gate: Weight, up: Weight, down: Weight) -> tuple[Shape, str]:
    inter, hidden = gate.data.shape
    return {"hidden": hidden, "inter": inter}, gate.format


def _cost(shape: Shape, format: str, dtype: str) -> Cost:
    tokens, inter, hidden = shape["tokens"], shape["inter"], shape["hidden"]
    moved = 2 * tokens * hidden * value_bytes(dtype)
    return Cost(6 * tokens * inter * hidden, expert_bytes(shape, format) + moved)


def _draw(shape: Shape, case: str, format: str, dtype: torch.dtype, generator: Generator) -> Case:
    weights: tuple[Any, ...] = draw_expert(shape, format, generator)
    return Case(weights, _draw_inputs(shape, case, dtype, generator))


def _draw_inputs(shape: Shape, case: str, dtype: torch.dtype, generator: Generator) -> tuple[Tensor]:
    return (draw_rows(shape["tokens"], shape["hidden"], case, dtype, generator),)


SWIGLU = Operator(
    name="swiglu",
    reference=swiglu_reference,
    describe=_describe,
    cost=_cost,
    draw=_draw,
    cases=("random", "extreme_scales", "one_token"),
    formats=WEIGHT_FORMATS,
    shapes=(
        {"tokens": 8, "hidden": 128, "inter": 256},
        {"tokens": 11, "hidden": 130, "inter": 37},
        {"tokens": 64, "hidden": 40, "inter": 200},
    ),
    tolerance=ARITHMETIC,
    draw_inputs=_draw_inputs,
)
