"""``linear``: y = x W^T, where W may be several matrices one above the other, such as projections of one x;
and ``embed``, which reads rows of the same kind of matrix.

The output head is a ``linear`` like any other, so that tied embeddings are one matrix with two users.
"""

import torch
from torch import Generator, Tensor

from fullbore.errors import FullboreError
from fullbore.ops.contract import Case, Cost, Operator, Shape, Tolerance
from fullbore.ops.draws import ARITHMETIC, WEIGHT_FORMATS, draw_rows, draw_weight
from fullbore.ops.formats import Weight, matrix_bytes, value_bytes


def _describe(*weights: Weight) -> tuple[Shape, str]:
    sizes, formats = {weight.data.shape[1] for weight in weights}, {weight.format for weight in weights}
    if len(sizes) > 1 or len(formats) > 1:
        stored = ", ".join(f"{weight.format} {list(weight.data.shape)}" for weight in weights)
        raise FullboreError(
            f"matrices that are multiplied together are stored as {stored}; expected one format and as many "
            "columns in all (convert the checkpoint)"
        )
    out = sum(weight.data.shape[0] for weight in weights)
    return {"out": out, "in": sizes.pop()}, formats.pop()


def _linear_reference(weights: tuple[Weight, ...], x: Tensor) -> Tensor:
    """x: [tokens, in] -> [tokens, out], the outputs of all matrices side by side."""
    return x.float() @ torch.cat([weight.dequantise(torch.float32) for weight in weights]).T


def _linear_cost(shape: Shape, format: str, dtype: str) -> Cost:
    tokens, out, in_ = shape["tokens"], shape["out"], shape["in"]
    moved = tokens * (in_ + out) * value_bytes(dtype)
    return Cost(2 * tokens * out * in_, matrix_bytes(out, in_, format) + moved)


def _linear_draw(shape: Shape, case: str, format: str, dtype: torch.dtype, generator: Generator) -> Case:
    inputs = _linear_inputs(shape, case, dtype, generator)
    return Case((draw_weight(shape["out"], shape["in"], format, generator),), inputs)


def _linear_inputs(shape: Shape, case: str, dtype: torch.dtype, generator: Generator) -> tuple[Tensor]:
    return (draw_rows(shape["tokens"], shape["in"], case, dtype, generator),)


LINEAR = Operator(
    name="linear",
    reference=_linear_reference,
    describe=_describe,
    cost=_linear_cost,
    draw=_linear_draw,
    cases=("random", "extreme_scales", "one_token"),
    formats=WEIGHT_FORMATS,
    shapes=(
        {"tokens": 8, "out": 128, "in": 256},
        {"tokens": 5, "out": 72, "in": 200},  # ragged blocks both ways
        {"tokens": 13, "out": 7, "in": 33},
        {"tokens": 64, "out": 300, "in": 129},
    ),
    tolerance=ARITHMETIC,
    draw_inputs=_linear_inputs,
)


def _embed_reference(weights: tuple[Weight], ids: Tensor) -> Tensor:
    """ids: [tokens] -> [tokens, in]."""
    return weights[0].dequantise(torch.float32)[ids]


def _embed_cost(shape: Shape, format: str, dtype: str) -> Cost:
    return Cost(0, shape["tokens"] * shape["in"] * 2 * value_bytes(dtype))


def _embed_draw(shape: Shape, case: str, format: str, dtype: torch.dtype, generator: Generator) -> Case:
    inputs = _embed_inputs(shape, case, dtype, generator)
    return Case((draw_weight(shape["out"], shape["in"], format, generator),), inputs)


def _embed_inputs(shape: Shape, case: str, dtype: torch.dtype, generator: Generator) -> tuple[Tensor]:
    tokens = 1 if case == "one_token" else shape["tokens"]
    return (torch.randint(shape["out"], (tokens,), generator=generator),)


EMBED = Operator(
    name="embed",
    reference=_embed_reference,
    describe=_describe,
    cost=_embed_cost,
    draw=_embed_draw,
    cases=("random", "one_token"),
    formats=("bf16", "fp32"),
    shapes=({"tokens": 9, "out": 50, "in": 33}, {"tokens": 8, "out": 128, "in": 64}),
    tolerance={
        "float32": Tolerance(0.0, "rows are copied; float32 holds bfloat16 exactly"),
        "bfloat16": Tolerance(2**-8, "one rounding where the checkpoint is float32"),
    },
    draw_inputs=_embed_inputs,
)
