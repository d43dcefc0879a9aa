"""One device of a layout: which part of everything is its own, and with whom it exchanges what."""

import math
import re
from dataclasses import dataclass, replace

from fullbore.errors import UsageError
from fullbore.parallel.balance import Balance
from fullbore.parallel.collectives import Links
from fullbore.parallel.layout import Layout

ALONE, NO_LINKS = Layout(), Links(1, "mesh", math.inf, 0.0)  # nothing to wait for


@dataclass(frozen=True)
class Exchange:
    """What an operator of a collective is bound to.

    links: of the devices that take part. groups: data-parallel ones among them, each with tokens of its own;
    own: the one that this device is in.
    """

    links: Links
    groups: int = 1
    own: int = 0


@dataclass(frozen=True)
class Rank:
    """Device ``index`` of ``layout``; its attention group holds consecutive devices, and so does the group
    that an expert is cut over. ``links``: of each device."""

    layout: Layout = ALONE
    index: int = 0
    links: Links = NO_LINKS

    @property
    def in_group(self) -> int:
        """Place in the attention group, whose heads, columns and requests are cut over ``tp`` devices."""
        return self.index % self.layout.tp

    @property
    def in_expert(self) -> int:
        """Place among the devices that one expert is cut over."""
        return self.index % self.layout.expert_tp

    @property
    def in_group_exchange(self) -> Exchange:
        """Among the devices of its attention group."""
        return Exchange(replace(self.links, devices=self.layout.tp))

    @property
    def exchange(self) -> Exchange:
        """Among all devices."""
        links = replace(self.links, devices=self.layout.devices)
        return Exchange(links, self.layout.dp, self.index // self.layout.tp)

    def experts(self, count: int) -> range:
        """Which of ``count`` experts it has, or has a part of."""
        each, group = count // self.layout.ep, self.index // self.layout.expert_tp
        return range(group * each, (group + 1) * each)

    def __str__(self) -> str:
        return f"rank {self.index}/{self.layout.devices} of {self.layout}"


ONE = Rank()


@dataclass(frozen=True)
class Role:
    """What a network is built as. ``rank``: the part that it is.

    distinct_layers: with weights of their own, which the others share (0: all have). balance: of experts that
    are drawn; None: the gate chooses.
    """

    rank: Rank = ONE
    distinct_layers: int = 0
    balance: Balance | None = None

    def weights_of(self, layer: int, dense: int) -> int:
        """The layer whose weights ``layer`` has; the first ``dense`` are of another kind than the others."""
        kept = self.distinct_layers
        if not kept or layer < dense <= kept - 1:
            return layer
        of_dense = min(dense, max(1, kept - 1)) if dense else 0
        if layer < dense:
            return layer % of_dense
        return dense + (layer - dense) % max(1, kept - of_dense)


WHOLE = Role()


def parse_rank(text: str, layout: Layout) -> int:
    """The device that ``0/8`` names; UsageError where it is none of ``layout``."""
    found = re.fullmatch(r"(\d{1,4})/(\d{1,4})", text)
    if found is None or int(found[1]) >= int(found[2]):
        raise UsageError(
            f"--emulate-rank {text[:40]!r}, expected a device and how many there are, such as 0/8 (the "
            "first of eight)"
        )
    if int(found[2]) != layout.devices:
        raise UsageError(
            f"--emulate-rank {text} is of {found[2]} devices and --layout {layout} of {layout.devices}; "
            "make the two agree"
        )
    return int(found[1])
