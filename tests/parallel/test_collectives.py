"""The link model: more data, fewer links or slower ones never take less time."""

from dataclasses import replace

from hypothesis import given
from hypothesis import strategies as st

from fullbore.parallel.collectives import Links

LINKS = st.builds(
    Links,
    devices=st.integers(1, 64),
    topology=st.sampled_from(["mesh", "switch", "pcie"]),
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
    assert links.all_reduce_s(size) >= least * (1 - 1e-9)
    pcie = replace(links, topology="pcie")
    assert pcie.all_reduce_s(size) >= links.all_reduce_s(size)


@given(LINKS, SIZES)
def test_one_device_exchanges_nothing(links: Links, size: float) -> None:
    alone = replace(links, devices=1)
    assert alone.all_reduce_s(size) == alone.gather_s(size) == alone.exchange_s(size) == 0
