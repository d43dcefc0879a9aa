"""``moe_ffn``: the experts of one layer, each a ``swiglu``: a token's own among the routed ones, weighted,
and the shared one, where there is one (DeepSeek-V3 report, section 2.1.2)."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Generator, Tensor

from fullbore.ops.contract import Case, Cost, Operator, Shape
from fullbore.ops.draws import ARITHMETIC, WEIGHT_FORMATS, draw_rows
from fullbore.ops.ffn import Expert, draw_expert, expert_bytes, swiglu_reference
from fullbore.ops.formats import value_bytes


def _describe(experts: Sequence[Expert], routed: int, first: int = 0, of: int = 0) -> tuple[Shape, str]:
    """``experts``: the first ``routed`` are chosen by the router; at most one follows, the shared one, whose
    width is its own. They are the router's ``first`` and following ``of`` so many; the others are elsewhere,
    and nothing is added for them. 0: there are no others."""
    gate = experts[0][0]
    inter, hidden = gate.data.shape
    shared = experts[routed][0].data.shape[0] if len(experts) > routed else 0
    shape = {"experts": routed, "hidden": hidden, "inter": inter, "shared": shared}
    return (shape | {"of": of} if of > routed else shape), gate.format


def _reference(weights: tuple[Any, ...], x: Tensor, ids: Tensor, scores: Tensor) -> Tensor:
    """x: [tokens, hidden]; ids, scores: [tokens, k] chosen experts and their weights -> [tokens, hidden]."""
    experts, routed, first = (*weights, 0)[:3]
    y = torch.zeros_like(x, dtype=torch.float32)
    for parts in experts[routed:]:
        y += swiglu_reference(parts, x)
    for expert, parts in enumerate(experts[:routed], first):
        token, slot = torch.where(ids == expert)
        y[token] += scores[token, slot, None].float() * swiglu_reference(parts, x[token])
    return y


def _cost(shape: Shape, format: str, dtype: str) -> Cost:
    """``shape["touched"]``: experts that any token chose; without it what uniform routing would touch."""
    tokens, experts, k = shape["tokens"], shape["experts"], shape["k"]
    of = _of(shape)
    touched = shape.get("touched", round(experts * (1 - (1 - k / of) ** tokens)))
    moved = tokens * (2 * shape["hidden"] * value_bytes(dtype) + k * 12)  # ids are int64, scores float32
    flops = 6 * tokens * shape["hidden"] * (k * shape["inter"] * experts // of + shape["shared"])
    return Cost(flops, touched * expert_bytes(shape, format) + expert_bytes(_shared(shape), format) + moved)


def _of(shape: Shape) -> int:
    """How many experts the router chooses from."""
    return max(shape["experts"], shape.get("of", 0))


def _shared(shape: Shape) -> Shape:
    return {**shape, "inter": shape["shared"]}


def _draw_inputs(shape: Shape, case: str, dtype: torch.dtype, generator: Generator) -> tuple[Tensor, ...]:
    x = draw_rows(shape["tokens"], shape["hidden"], case, dtype, generator)
    liking = torch.rand(len(x), _of(shape), generator=generator)
    if case == "skewed":  # most tokens agree on a few experts, some experts get none
        liking += 3.0 * torch.arange(_of(shape)) / _of(shape)
    if case == "one_expert":  # every token's first choice is the same
        liking[:, _of(shape) // 2] += 9.0
    ids = liking.topk(1 if case == "one_expert" else shape["k"], dim=-1).indices
    scores = torch.rand(ids.shape, generator=generator) + 0.05
    return x, ids, scores / scores.sum(-1, keepdim=True) * 2.5


def _draw(shape: Shape, case: str, format: str, dtype: torch.dtype, generator: Generator) -> Case:
    experts = [draw_expert(shape, format, generator) for _ in range(shape["experts"])]
    if shape["shared"]:
        experts.append(draw_expert(_shared(shape), format, generator))
    of = _of(shape)
    part = ((of - shape["experts"]) // 2, of) if of > shape["experts"] else ()
    return Case((experts, shape["experts"], *part), _draw_inputs(shape, case, dtype, generator))


MOE_FFN = Operator(
    name="moe_ffn",
    reference=_reference,
    describe=_describe,
    cost=_cost,
    draw=_draw,
    cases=("random", "skewed", "one_expert", "extreme_scales", "one_token"),
    formats=WEIGHT_FORMATS,
    shapes=(
        {"tokens": 16, "hidden": 128, "inter": 64, "experts": 8, "k": 2, "shared": 64},
        {"tokens": 21, "hidden": 72, "inter": 37, "experts": 5, "k": 5, "shared": 0},
        {"tokens": 7, "hidden": 40, "inter": 130, "experts": 12, "k": 1, "shared": 200},
        {"tokens": 5, "hidden": 24, "inter": 17, "experts": 3, "k": 4, "shared": 9, "of": 9},
    ),
    tolerance=ARITHMETIC,
    draw_inputs=_draw_inputs,
)
