"""All devices of a layout in one process, a thread each, whose collectives are real."""

import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from typing import Any, TypeVar

import torch
from small_models import DictSource
from torch import Tensor

from fullbore.hardware.device import CPU
from fullbore.kernels.torch import KERNELS
from fullbore.model.config import ModelConfig
from fullbore.model.deepseek import DeepseekV3
from fullbore.model.held import Held
from fullbore.model.load import Loader, in_registry_order
from fullbore.model.parts import Call
from fullbore.model.share import held_specs
from fullbore.model.specs import tensor_specs
from fullbore.model.workload import assemble, workload
from fullbore.ops.collectives import COLLECTIVES
from fullbore.ops.registry import Registry
from fullbore.parallel.collectives import Links
from fullbore.parallel.layout import Layout
from fullbore.parallel.rank import Exchange, Rank, Role

TORCH = Registry(KERNELS)
T = TypeVar("T")


@dataclass
class World:
    """What the devices show each other."""

    layout: Layout
    shown: dict[int, Tensor] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self._barrier = threading.Barrier(self.layout.devices, timeout=60)

    def everyone(self, index: int, x: Tensor) -> list[Tensor]:
        """What each device has, in order."""
        self.shown[index] = x
        self._barrier.wait()
        seen = [self.shown[each] for each in range(self.layout.devices)]
        self._barrier.wait()
        return seen

    def abort(self) -> None:
        self._barrier.abort()


class RankLoader(Loader):
    """Binds collectives to a ``World``."""

    world: World

    def bind_all(self, operators: Sequence[str], *weights: Any) -> tuple[Call, ...]:
        if operators[0] not in COLLECTIVES:
            return super().bind_all(operators, *weights)
        (exchange,) = weights
        return (self._collective(operators[0], exchange),)

    def _collective(self, name: str, exchange: Exchange) -> Call:
        rank, world = self.role.rank, self.world
        tp, all_devices = rank.layout.tp, exchange.links.devices == rank.layout.devices
        group = (
            range(rank.layout.devices)
            if all_devices
            else range(rank.index // tp * tp, (rank.index // tp + 1) * tp)
        )

        def run(x: Tensor) -> Tensor:
            seen = world.everyone(rank.index, x)
            if name == "gather":
                return torch.cat([seen[first] for first in range(0, rank.layout.devices, tp)])
            among = [seen[each] for each in group]
            if name == "gather_columns":
                return torch.cat(
                    [each.view(exchange.groups, -1, each.shape[1])[exchange.own] for each in among], 1
                )
            total = torch.stack(among).sum(0)
            return (
                total if name == "all_reduce" else total.view(exchange.groups, -1, x.shape[1])[exchange.own]
            )

        return run


def rank_of(layout: Layout, index: int) -> Rank:
    return Rank(layout, index, Links(layout.devices, "mesh", 1e12, 1e-6))


def ranks(config: ModelConfig, source: DictSource, layout: Layout) -> tuple[World, list[DeepseekV3]]:
    """Every device's network, each with its own part of the weights."""
    world, made, specs = World(layout), [], tensor_specs(config)
    specs = {name: spec for name, spec in specs.items() if not spec.optional}
    for index in range(layout.devices):
        role = Role(rank_of(layout, index))
        held = Held(source, held_specs(specs, config, role), specs, role.rank)
        selection = in_registry_order(workload(config, held, "float32", 0, CPU, role), TORCH, "float32")
        loader = RankLoader(held, selection, None, CPU, role)
        loader.world = world
        made.append(assemble(config, loader, "float32"))
    return world, made


def together(world: World, models: Sequence[DeepseekV3], work: Callable[[int, DeepseekV3], T]) -> list[T]:
    """``work`` of every device at once."""

    def one(index: int) -> T:
        try:
            return work(index, models[index])
        except BaseException:
            world.abort()  # or the others would wait for it
            raise

    with ThreadPoolExecutor(len(models)) as pool:
        return list(pool.map(one, range(len(models))))


def smallest_links(role: Role) -> Role:
    """The same, with exchanges that take no time."""
    return replace(role, rank=replace(role.rank, links=Links(role.rank.layout.devices, "mesh", 1e15, 0.0)))
