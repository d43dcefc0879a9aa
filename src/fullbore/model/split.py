"""What a network on several devices has beside its own operators: exchanges after, before and around them.

On one device there are none: what was bound is called as it is.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from fullbore.model.parts import Call, Parts
from fullbore.parallel.balance import expert_table


@dataclass(frozen=True)
class Then:
    """``second`` of what ``first`` gives."""

    first: Call
    second: Call

    def __call__(self, *inputs: Any) -> Any:
        return self.second(self.first(*inputs))


def all_reduced(parts: Parts, call: Call) -> Call:
    """``call``, whose outputs are sums of what the devices of an attention group each have a part of."""
    rank = parts.role.rank
    if rank.layout.tp == 1:
        return call
    return Then(call, parts.bind("all_reduce", rank.in_group_exchange))


def embedded(parts: Parts, call: Call) -> Call:
    """``call``, of which each device of an attention group has some columns."""
    rank = parts.role.rank
    if rank.layout.tp == 1:
        return call
    return Then(call, parts.bind("gather_columns", rank.in_group_exchange))


def whole_vocabulary(parts: Parts, call: Call) -> Call:
    """``call``, the output head, of which every device has some tokens: for the rows of all groups."""
    rank = parts.role.rank
    if rank.layout.devices == 1:
        return call
    columns = Then(call, parts.bind("gather_columns", rank.exchange))
    return columns if rank.layout.dp == 1 else Then(parts.bind("gather", rank.exchange), columns)


@dataclass(frozen=True)
class AcrossGroups:
    """``routed`` experts see the tokens of every data-parallel group, the ``shared`` one its own group's."""

    gather: Call
    routed: Callable[[Tensor], Tensor]
    scatter: Call
    shared: Call | None

    def __call__(self, x: Tensor) -> Tensor:
        """x: [T, hidden] -> [T, hidden]."""
        y: Tensor = self.scatter(self.routed(self.gather(x)))
        return y if self.shared is None else y + self.shared(x)


def across_groups(parts: Parts, routed: Callable[[Tensor], Tensor], shared: Call | None) -> AcrossGroups:
    exchange = parts.role.rank.exchange
    gather, scatter = parts.bind("gather", exchange), parts.bind("scatter", exchange)
    return AcrossGroups(gather, routed, scatter, shared)


@dataclass(frozen=True)
class Drawn:
    """The gate's work is done, and its weights are taken; which experts they are of is drawn."""

    route: Call
    draw: Call

    def __call__(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """x: [T, hidden] -> ids, weights: [T, k]."""
        _, weights = self.route(x)
        return self.draw(x), weights


def routed(parts: Parts, route: Call, experts: int, chosen: int, layer: int) -> Call:
    """``route``, or where the role wants a balance of its own, a draw with that balance."""
    role = parts.role
    if role.balance is None:
        return route
    table = expert_table(role.balance, role.rank.experts(experts), experts, chosen, layer)
    return Drawn(route, parts.bind("draw_experts", torch.tensor(table, dtype=torch.int32), chosen))
