"""How the model is split over the devices of a server, as ``tp8``, ``ep8dp8`` or ``tp8ep8`` says it."""

import re
from dataclasses import dataclass
from typing import Protocol

from fullbore.errors import UsageError


class Divisible(Protocol):
    """What of a model's configuration a layout divides."""

    @property
    def num_attention_heads(self) -> int: ...
    @property
    def n_routed_experts(self) -> int: ...
    @property
    def moe_intermediate_size(self) -> int: ...


@dataclass(frozen=True)
class Layout:
    """tp x dp devices. Attention: ``dp`` groups with requests of their own, each split over ``tp`` devices.

    Experts lie whole on ``ep`` groups; inside such a group every expert is cut over devices / ep.
    """

    tp: int = 1
    dp: int = 1
    ep: int = 1

    @property
    def devices(self) -> int:
        return self.tp * self.dp

    @property
    def expert_tp(self) -> int:
        """Devices that one expert is cut over."""
        return self.devices // self.ep

    def __str__(self) -> str:
        sizes = (("tp", self.tp), ("ep", self.ep), ("dp", self.dp))
        return "".join(f"{name}{size}" for name, size in sizes if size > 1) or "tp1"


def parse_layout(text: str) -> Layout:
    """The layout that ``text`` names; UsageError for what is none."""
    words = re.findall(r"(tp|dp|ep)(\d{1,4})", text.lower())
    sizes = {name: int(size) for name, size in words}
    if not words or "".join(name + size for name, size in words) != text.lower() or len(sizes) < len(words):
        raise UsageError(
            f"unknown layout {text[:40]!r}; expected tp, ep and dp with their sizes, such as tp8, ep8dp8 "
            "(data-parallel attention, whole experts) or tp8ep8"
        )
    layout = Layout(sizes.get("tp", 1), sizes.get("dp", 1), sizes.get("ep", 1))
    if min(sizes.values()) < 1 or layout.devices % layout.ep:
        raise UsageError(
            f"layout {text}: ep{layout.ep} cannot lie on {layout.devices} devices (tp x dp); "
            "expected sizes of at least 1, and an ep that divides tp x dp"
        )
    return layout


def check_layout(layout: Layout, config: Divisible, devices: int) -> None:
    """UsageError where the layout does not fit the server's device count or the model's heads and experts."""
    possible = possible_layouts(config, devices)
    if layout.devices != devices and possible:
        raise UsageError(
            f"layout {layout} needs {layout.devices} devices and the server has {devices}; possible are "
            f"{', '.join(map(str, possible))}"
        )
    if layout not in possible:
        raise UsageError(
            f"layout {layout} cannot split {config.num_attention_heads} heads, {config.n_routed_experts} "
            f"experts and expert width {config.moe_intermediate_size} evenly; "
            f"{_advice(config, possible, devices)}"
        )


def possible_layouts(config: Divisible, devices: int) -> list[Layout]:
    """Every layout of so many devices that cuts heads, experts and expert columns into equal parts."""
    found = []
    for tp in _divisors(devices):
        for ep in _divisors(devices):
            layout = Layout(tp, devices // tp, ep)
            if (
                config.num_attention_heads % tp == 0
                and config.n_routed_experts % ep == 0
                and config.moe_intermediate_size % layout.expert_tp == 0
            ):
                found.append(layout)
    return found


def _advice(config: Divisible, possible: list[Layout], devices: int) -> str:
    if possible:
        return f"on {devices} devices possible: {', '.join(map(str, possible))}"
    counts = [count for count in range(1, max(8, 2 * devices) + 1) if possible_layouts(config, count)]
    return f"{devices} devices have no layout; counts that do: {', '.join(map(str, counts))}"


def _divisors(number: int) -> list[int]:
    return [size for size in range(1, number + 1) if number % size == 0]
