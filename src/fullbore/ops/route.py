"""``route``: which experts a token goes to, and with what weights (DeepSeek-V3 report, section 2.1.2).

Float32 throughout and in this order: scores, correction bias, groups, choice, weights without the bias.
"""

from dataclasses import dataclass

import torch
from torch import Generator, Tensor

from fullbore.ops.contract import Case, Cost, Operator, Shape, Tolerance, worst_row_error
from fullbore.ops.draws import draw_rows
from fullbore.ops.formats import value_bytes


@dataclass(frozen=True)
class Routing:
    """The config fields of the same names (``k``: num_experts_per_tok, ``scale``: routed_scaling_factor)."""

    k: int
    n_group: int
    topk_group: int
    norm_topk_prob: bool
    scale: float


Weights = tuple[Tensor, Tensor, Routing]  # gate [experts, hidden], correction bias [experts] float32


def _describe(gate: Tensor, bias: Tensor, routing: Routing) -> tuple[Shape, str]:
    experts, hidden = gate.shape
    shape = {"experts": experts, "hidden": hidden, "k": routing.k}
    return shape | {"n_group": routing.n_group, "topk_group": routing.topk_group}, "none"


def _reference(weights: Weights, x: Tensor) -> tuple[Tensor, Tensor]:
    """x: [tokens, hidden] -> ids [tokens, k] int64, weights [tokens, k] float32."""
    gate, bias, routing = weights
    scores = torch.sigmoid(x.float() @ gate.float().T)
    choice = scores + bias
    if routing.n_group > 1:
        groups = choice.view(len(x), routing.n_group, -1)  # [tokens, groups, experts of a group]
        best = groups.topk(2, dim=-1).values.sum(-1).topk(routing.topk_group, dim=-1).indices
        kept = torch.zeros(groups.shape[:2], dtype=torch.bool).scatter_(1, best, True)
        # -inf, not 0: a kept group's choice may be negative where the bias is.
        choice = groups.masked_fill(~kept[..., None], float("-inf")).flatten(1)
    ids = choice.topk(routing.k, dim=-1).indices
    chosen = scores.gather(1, ids)
    if routing.norm_topk_prob:
        chosen = chosen / (chosen.sum(-1, keepdim=True) + 1e-20)
    return ids, chosen * routing.scale


def _cost(shape: Shape, format: str, dtype: str) -> Cost:
    tokens, experts, hidden = shape["tokens"], shape["experts"], shape["hidden"]
    moved = tokens * (hidden * value_bytes(dtype) + shape["k"] * 12)
    return Cost(2 * tokens * experts * hidden, 4 * experts * (hidden + 1) + moved)


def _draw(shape: Shape, case: str, format: str, dtype: torch.dtype, generator: Generator) -> Case:
    experts, hidden = shape["experts"], shape["hidden"]
    gate = torch.randn(experts, hidden, generator=generator) * hidden**-0.5
    bias = 0.3 * torch.randn(experts, generator=generator)
    if case == "negative":  # every biased score below 0, where a mask of 0 would win
        bias -= 3.0
    routing = Routing(shape["k"], shape["n_group"], shape["topk_group"], case != "unnormalised", 2.5)
    return Case((gate, bias, routing), (draw_rows(shape["tokens"], hidden, case, dtype, generator),))


def _error(output: tuple[Tensor, Tensor], reference: tuple[Tensor, Tensor]) -> float:
    """Weights compared per expert, whatever the order of the k: a wrong choice is an error near 1."""
    experts = int(max(output[0].max(), reference[0].max())) + 1
    dense = [torch.zeros(len(ids), experts).scatter_(1, ids, scores) for ids, scores in (output, reference)]
    return worst_row_error(dense[0], dense[1])


_FLOAT32 = Tolerance(2e-5, "float32 whatever the activations' type")

ROUTE = Operator(
    name="route",
    reference=_reference,
    describe=_describe,
    cost=_cost,
    draw=_draw,
    cases=("random", "negative", "unnormalised", "extreme_scales", "one_token"),
    formats=("none",),
    shapes=(
        {"tokens": 16, "hidden": 128, "experts": 32, "k": 4, "n_group": 8, "topk_group": 3},
        {"tokens": 9, "hidden": 33, "experts": 8, "k": 3, "n_group": 1, "topk_group": 1},
        {"tokens": 40, "hidden": 64, "experts": 12, "k": 6, "n_group": 3, "topk_group": 2},
    ),
    tolerance={"float32": _FLOAT32, "bfloat16": _FLOAT32},
    error=_error,
)
