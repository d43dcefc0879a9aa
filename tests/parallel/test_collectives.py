"""The link model: more data, fewer links or slower ones never take less time."""

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fullbore.parallel.collectives import Links

LINKS = st.builds(
    Links,
    devices=st.integers(1, 64),
    topology=st.sampled_from(["mesh", "switch", "sharp", "pcie"]),
    bytes_s=st.floats(1e9, 1e12),
    hop_s=st.floats(0, 1e-4),
)
SIZES = st.floats(0, 1e10)


@given(LINKS, SIZES, SIZES)
def test_more_data_takes_longer(links: Links, one: float, other: float) -> None:
    low, high = sorted((one, other))
    assert links.all_reduce_s(low) <= links.all_reduce_s(high)
    assert links.gather_s(low) <= links.gather_s(high)
    assert links.exchange_s(low) <= links.exchange_s(high)


@given(LINKS, SIZES)
def test_an_all_reduce_sends_at_least_what_it_must(links: Links, size: float) -> None:
    n = links.devices
    least = 2 * (n - 1) / n * size / links.bytes_s
    if n <= links.node:
        assert links.all_reduce_s(size) >= least / (2 if links.topology == "sharp" else 1) * (1 - 1e-9)
    pcie = replace(links, topology="pcie")
    if links.topology != "mesh":  # of which two devices use one link
        assert pcie.all_reduce_s(size) >= links.all_reduce_s(size)


@given(LINKS, SIZES)
def test_a_switch_that_adds_is_never_slower_than_one_that_does_not(links: Links, size: float) -> None:
    adding, plain = replace(links, topology="sharp"), replace(links, topology="switch")
    assert adding.all_reduce_s(size) <= plain.all_reduce_s(size)
    if links.devices > 2:
        large = replace(adding, devices=min(links.devices, 8), hop_s=0.0)
        assert large.all_reduce_s(1e9) == pytest.approx(1e9 / links.bytes_s)


@given(LINKS, st.floats(1e3, 1e10))
def test_a_second_node_costs_more_than_the_first(links: Links, size: float) -> None:
    one, two = replace(links, devices=8), replace(links, devices=16)
    for exchange in ("all_reduce_s", "gather_s"):
        assert getattr(two, exchange)(size) > getattr(one, exchange)(size)


@given(LINKS, SIZES)
def test_one_device_exchanges_nothing(links: Links, size: float) -> None:
    alone = replace(links, devices=1)
    assert alone.all_reduce_s(size) == alone.gather_s(size) == alone.exchange_s(size) == 0
