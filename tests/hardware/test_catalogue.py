"""The list of devices: every figure is positive and says where it is from."""

import pytest

from fullbore.errors import UsageError
from fullbore.hardware.catalogue import Figure, catalogue, find_device


@pytest.mark.parametrize("device", catalogue(), ids=lambda device: device.name)
def test_every_figure_has_a_source(device: object) -> None:
    figures = [value for value in vars(device).values() if isinstance(value, Figure)]
    assert len(figures) >= 4
    for figure in figures:
        assert figure.value > 0
        assert figure.mark in ("vendor", "measured", "scaled", "assumed")
        assert figure.source


def test_what_was_measured_is_less_than_what_is_stated() -> None:
    measured = [device for device in catalogue() if device.reached_bytes_s]
    assert measured
    for device in measured:
        assert device.reached_bytes_s is not None
        assert device.reached_bytes_s.mark == "measured"
        assert device.reached_bytes_s.value < device.bandwidth_bytes_s.value


def test_a_device_is_found_by_its_name_only() -> None:
    assert find_device("mi300x").bandwidth_bytes_s.value == 5.3e12
    assert find_device("H20-96G").memory_bytes.value == 102.6e9
    with pytest.raises(UsageError, match="did you mean MI300X"):
        find_device("mi300")
