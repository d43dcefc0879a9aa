"""Flags of an emulated rank: what they mean together, and what is refused with the way out."""

from typing import Any

import pytest

from fullbore.engine.emulation import emulation_of
from fullbore.engine.options import EngineOptions
from fullbore.errors import UsageError
from fullbore.model.named import DEEPSEEK_V3, named_config
from fullbore.parallel.balance import Balance
from fullbore.parallel.rank import WHOLE

CONFIG = named_config(DEEPSEEK_V3)
RANK = {"emulate_rank": "0/8", "layout": "tp8"}


def options(**flags: Any) -> EngineOptions:
    return EngineOptions("model", **flags)


def test_without_flags_the_model_is_the_model() -> None:
    found = emulation_of(options(), CONFIG)
    assert (found.role, found.mark, found.notes, found.groups) == (WHOLE, "", (), 1)


def test_a_rank_has_its_links_its_balance_and_a_mark() -> None:
    found = emulation_of(options(**RANK, random_weights=True), CONFIG)
    links = found.role.rank.links
    assert (links.devices, links.topology) == (8, "mesh")
    assert found.mark == "emulated rank 0/8 of tp8; outputs are meaningless"
    nvlink = emulation_of(options(emulate_rank="7/8", layout="ep8dp8", links="nvlink"), CONFIG)
    assert (nvlink.role.rank.links.topology, nvlink.groups) == ("sharp", 8)
    assert nvlink.role.balance is None  # the checkpoint's own gate chooses
    other = emulation_of(options(**RANK, links="8xH20-96G"), CONFIG)
    assert "8 H20-96G" in other.notes[0]


def test_one_group_has_nothing_to_be_busier_than() -> None:
    """Under tp8 every device has a part of every expert."""
    assert emulation_of(options(**RANK, random_weights=True), CONFIG).role.balance == Balance(1.0)


@pytest.mark.parametrize(("flags", "says"), [
    ({"emulate_rank": "0/8"}, "needs the --layout"),
    ({"emulate_rank": "8/8", "layout": "tp8"}, "such as 0/8"),
    ({"emulate_rank": "0/4", "layout": "tp8"}, "of 4 devices and --layout tp8 of 8"),
    ({"emulate_rank": "0/3", "layout": "tp3"}, "counts that do: 1, 2, 4"),
    ({**RANK, "links": "token ring"}, "unknown server"),
    ({**RANK, "routing": "fair"}, "expected natural"),
    ({"emulate_rank": "0/8", "layout": "ep8dp8", "routing": "9"}, "expected at most 8"),
    ({**RANK, "emulate_layers": 1}, "expected 2 to 61"),
    ({**RANK, "emulate_layers": 62}, "expected 2 to 61"),
    ({"layout": "tp8"}, "--emulate-rank 0/8"),
    ({"links": "pcie"}, "runs on one"),
    ({"routing": "balanced"}, "would make the answers wrong"),
    ({"emulate_layers": 3}, "would make the answers wrong"),
])  # fmt: skip
def test_what_cannot_be_is_refused_with_the_way_out(flags: dict[str, Any], says: str) -> None:
    with pytest.raises(UsageError, match=says):
        emulation_of(options(**flags), CONFIG)


def test_random_weights_alone_are_marked_too() -> None:
    found = emulation_of(options(random_weights=True, routing="balanced"), CONFIG)
    assert found.role.balance == Balance(1.0, 0)
    assert found.mark == "random weights; outputs are meaningless"
