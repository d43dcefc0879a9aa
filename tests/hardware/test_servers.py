"""Servers by name, and what the catalogue says of each device."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fullbore.errors import UsageError
from fullbore.hardware.catalogue import catalogue
from fullbore.hardware.servers import MOST_DEVICES, find_server


@given(st.integers(1, MOST_DEVICES), st.sampled_from(catalogue()), st.sampled_from(["x", "X", " x "]))
def test_any_count_of_any_device_is_a_server(count: int, device: object, times: str) -> None:
    name = device.name  # type: ignore[attr-defined]
    for word in (name, name.lower(), *device.aliases):  # type: ignore[attr-defined]
        server = find_server(f"{count}{times}{word}")
        assert (server.device, server.count, server.name) == (device, count, f"{count}x{name}")


def test_the_servers_of_the_record_have_names() -> None:
    for name in ("wa7785a-mi300x", "wa7785a-mi308x", "h20-768g"):
        server = find_server(name)
        assert server.count == 8
        assert server.note
    # What drivers report is a little less than the 96 GiB of the name.
    assert 0.99 * 96 < find_server("h20-768g").device.memory_bytes.value / 2**30 < 96


@pytest.mark.parametrize(
    "text", ["", "8", "x8", "8xRX580", "0xH100", f"{MOST_DEVICES + 1}xH100", "-1xH100", "mi300x"]
)
def test_what_is_no_server_is_refused(text: str) -> None:
    with pytest.raises(UsageError, match="expected"):
        find_server(text)


def test_every_device_says_how_it_is_linked() -> None:
    for device in catalogue():
        assert device.topology in ("mesh", "switch", "sharp", "pcie")
        assert device.vendor in ("amd", "nvidia")
        assert device.units > 0
        assert device.fp4_flop_s is None or device.fp4_flop_s.value > device.bf16_flop_s.value
