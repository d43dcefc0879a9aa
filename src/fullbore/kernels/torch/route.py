"""``route`` in float32."""

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from fullbore.kernels.torch.rows import TorchKernel, pad, sigmoid, up
from fullbore.ops.route import Routing


class Gate(NamedTuple):
    """``values``: [experts, hidden rounded up to 8] float32; ``bias``: [experts] float32."""

    values: Tensor
    bias: Tensor
    routing: tuple[Routing]


class TorchRoute(TorchKernel):
    operator = "route"
    formats = ("none",)

    def pack(self, gate: Tensor, bias: Tensor, routing: Routing) -> Gate:
        values = torch.zeros(len(gate), up(gate.shape[1]))
        values[:, : gate.shape[1]] = gate
        return Gate(values, bias.to(torch.float32, copy=True), (routing,))

    def run(self, packed: Gate, x: Tensor) -> tuple[Tensor, Tensor]:
        """x: [tokens, hidden] -> ids [tokens, k] int64, weights [tokens, k] float32."""
        (routing,) = packed.routing
        scores = sigmoid(F.linear(pad(x.float(), packed.values.shape[1]), packed.values)[: len(x)])
        choice = scores + packed.bias  # [tokens, experts]
        if routing.topk_group < routing.n_group:
            groups = choice.view(len(x), routing.n_group, -1)  # a view: masking it masks ``choice``
            strength = groups.topk(2, dim=-1).values.sum(-1)  # [tokens, groups]
            drop = strength.topk(routing.n_group - routing.topk_group, dim=-1, largest=False).indices
            dropped = torch.zeros_like(strength, dtype=torch.bool).scatter_(1, drop, True)
            groups.masked_fill_(dropped[..., None], float("-inf"))
        ids = choice.topk(routing.k, dim=-1).indices
        weights = scores.gather(1, ids)
        if routing.norm_topk_prob:
            weights /= weights.sum(-1, keepdim=True) + 1e-20
        return ids, weights.mul_(routing.scale)
