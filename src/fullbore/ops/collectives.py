"""What the devices of a layout tell each other, as one of them sees it that stands alone: the other devices'
part is made of its own, and the time is what the link model says (``parallel.collectives``).

``all_reduce``: the others' sums are zeros. ``gather``: tokens of the other data-parallel groups are its own
with their columns turned, so that they are as large, and unlike. ``scatter``: of the sums over all groups'
tokens its own group's. ``gather_columns``: of its own group's tokens every device's columns, alike all.
"""

from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any

import torch
from torch import Generator, Tensor

from fullbore.ops.contract import Case, Cost, Operator, Shape, Tolerance
from fullbore.ops.draws import draw_rows
from fullbore.ops.formats import value_bytes
from fullbore.parallel.collectives import Links
from fullbore.parallel.rank import Exchange


def turns(exchange: Exchange, width: int) -> list[int]:
    """By how many columns the tokens of each group are turned; 0 for its own."""
    groups = exchange.groups
    return [(group - exchange.own) % groups * width // groups for group in range(groups)]


def seconds(operator: str, exchange: Exchange, x: Tensor) -> float:
    """What the exchange of ``x`` takes by the link model; depends on its shape alone."""
    links, size = exchange.links, x.numel() * x.element_size()
    if operator == "all_reduce":
        return links.all_reduce_s(size)
    if operator == "gather_columns":  # each device is sent what it lacks of its own group's tokens
        return links.gather_s(size // exchange.groups * links.devices)
    return links.gather_s(size * exchange.groups if operator == "gather" else size)


def _all_reduce(weights: tuple[Exchange], x: Tensor) -> Tensor:
    """x: [tokens, width] -> the same."""
    return x.float()


def _gather(weights: tuple[Exchange], x: Tensor) -> Tensor:
    """x: [tokens, width] -> [groups * tokens, width]."""
    return torch.cat([x.float().roll(-turn, 1) for turn in turns(weights[0], x.shape[1])])


def _scatter(weights: tuple[Exchange], x: Tensor) -> Tensor:
    """x: [groups * tokens, width] -> [tokens, width]."""
    return own_rows(weights[0], x).float()


def _gather_columns(weights: tuple[Exchange], x: Tensor) -> Tensor:
    """x: [groups * tokens, width] -> [tokens, devices * width]."""
    (exchange,) = weights
    return own_rows(exchange, x).float().repeat(1, exchange.links.devices)


def own_rows(exchange: Exchange, x: Tensor) -> Tensor:
    """Of [groups * tokens, width] those of its own group: a view."""
    return x.view(exchange.groups, -1, x.shape[1])[exchange.own]


def _describe(exchange: Exchange) -> tuple[Shape, str]:
    return {"devices": exchange.links.devices, "groups": exchange.groups}, "none"


def _cost(shape: Shape, format: str, dtype: str) -> Cost:
    """Of no link: what is read and written here."""
    return Cost(0, (1 + shape["groups"]) * shape["tokens"] * shape["width"] * value_bytes(dtype))


def _draw(shape: Shape, case: str, format: str, dtype: torch.dtype, generator: Generator) -> Case:
    exchange = Exchange(Links(shape["devices"], "mesh", 1e12, 1e-6), shape["groups"], shape["groups"] - 1)
    return Case((exchange,), (draw_rows(shape["tokens"], shape["width"], case, dtype, generator),))


def _draw_all(shape: Shape, case: str, format: str, dtype: torch.dtype, generator: Generator) -> Case:
    """As ``_draw``, with tokens of every group."""
    drawn = _draw(shape, case, format, dtype, generator)
    (x,) = drawn.inputs
    groups = 1 if case == "one_token" else shape["groups"]
    (exchange,) = drawn.weights
    return Case((Exchange(exchange.links, groups, groups - 1),), (x.repeat(groups, 1),))


def _operator(name: str, reference: Callable[..., Any], draw: Callable[..., Case]) -> Operator:
    copied = "values are copied"
    return Operator(
        name=name,
        reference=reference,
        describe=_describe,
        cost=_cost,
        draw=draw,
        cases=("random", "extreme_scales", "one_token"),
        formats=("none",),
        shapes=(
            {"tokens": 4, "width": 48, "devices": 8, "groups": 1},
            {"tokens": 3, "width": 29, "devices": 4, "groups": 1},
        )
        if name == "all_reduce"
        else (
            {"tokens": 4, "width": 48, "devices": 8, "groups": 8},
            {"tokens": 3, "width": 29, "devices": 4, "groups": 2},
        ),
        tolerance={dtype: Tolerance(0.0, copied) for dtype in ("float32", "bfloat16")},
    )


ALL_REDUCE = _operator("all_reduce", _all_reduce, _draw)
GATHER = _operator("gather", _gather, _draw)
SCATTER = _operator("scatter", _scatter, _draw_all)
GATHER_COLUMNS = _operator("gather_columns", _gather_columns, _draw_all)

COLLECTIVES: Mapping[str, Operator] = MappingProxyType(
    {operator.name: operator for operator in (ALL_REDUCE, GATHER, SCATTER, GATHER_COLUMNS)}
)
