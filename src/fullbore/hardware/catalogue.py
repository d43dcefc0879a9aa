"""Accelerators by name: what data sheets state and what was measured, each figure with its source."""

import tomllib
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from fullbore.errors import UsageError, did_you_mean

_FILE = Path(__file__).with_name("catalogue.toml")


@dataclass(frozen=True)
class Figure:
    """A number and where it is from. ``mark``: vendor, measured, scaled (from a relative) or assumed."""

    value: float
    mark: str
    source: str


@dataclass(frozen=True)
class Device:
    """One accelerator; None where nothing is known. FLOP/s are dense."""

    name: str
    memory_bytes: Figure
    bandwidth_bytes_s: Figure
    reached_bytes_s: Figure | None  # by a copy or a triad
    bf16_flop_s: Figure
    fp8_flop_s: Figure | None
    link_bytes_s: Figure  # to the other devices of the server, one way


def find_device(name: str) -> Device:
    """The device of that name, in upper or lower case; UsageError for one that is not in the catalogue."""
    devices = {device.name.lower(): device for device in catalogue()}
    if name.lower() not in devices:
        known = [device.name for device in catalogue()]
        raise UsageError(
            f"unknown device {name!r}{did_you_mean(name.upper(), known)}; expected one of {', '.join(known)}"
        )
    return devices[name.lower()]


@cache
def catalogue() -> tuple[Device, ...]:
    """Every device that is known."""
    table = tomllib.loads(_FILE.read_text(encoding="utf-8"))

    def device(name: str, values: dict[str, Any]) -> Device:
        def figure(key: str, unit: float) -> Figure | None:
            if key not in values:
                return None
            number, source = values[key]
            return Figure(number * unit, table["sources"][source]["mark"], table["sources"][source]["text"])

        def stated(key: str, unit: float) -> Figure:
            found = figure(key, unit)
            if found is None:
                raise KeyError(f"{_FILE.name}: {name} has no {key}")
            return found

        return Device(
            name=name,
            memory_bytes=stated("memory_gb", 1e9),
            bandwidth_bytes_s=stated("bandwidth_tb_s", 1e12),
            reached_bytes_s=figure("reached_tb_s", 1e12),
            bf16_flop_s=stated("bf16_tflop_s", 1e12),
            fp8_flop_s=figure("fp8_tflop_s", 1e12),
            link_bytes_s=stated("link_gb_s", 1e9),
        )

    return tuple(device(name, values) for name, values in table["devices"].items())
