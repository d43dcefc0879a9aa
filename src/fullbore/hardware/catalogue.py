"""Accelerators by name: what data sheets state and what was measured, each figure with its source."""

import math
import tomllib
from collections.abc import Mapping
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
    fp4_flop_s: Figure | None
    vendor: str
    architecture: str
    units: int  # compute units or streaming multiprocessors
    topology: str  # of the links: mesh, switch, sharp or pcie
    aliases: tuple[str, ...]


Table = Mapping[str, Any]  # of a catalogue file: sources, devices, servers


def find_device(name: str, table: Table | None = None) -> Device:
    """The device of that name, in upper or lower case; UsageError for one that is not in the catalogue."""
    known = catalogue() if table is None else devices_of(table)
    devices = {word.lower(): device for device in known for word in (device.name, *device.aliases)}
    if name.lower() not in devices:
        names = [device.name for device in known]
        raise UsageError(
            f"unknown device {name!r}{did_you_mean(name.upper(), names)}; expected one of {', '.join(names)}"
        )
    return devices[name.lower()]


@cache
def catalogue() -> tuple[Device, ...]:
    """Every device that is known."""
    return devices_of(read_table())


def devices_of(table: Table) -> tuple[Device, ...]:
    """The devices of a file. KeyError, TypeError or ValueError where an entry is none."""

    def device(name: str, values: dict[str, Any]) -> Device:
        def figure(key: str, unit: float) -> Figure | None:
            if key not in values:
                return None
            number, source = values[key]
            if not 0 < number < math.inf:
                raise ValueError(f"{name} has {key} = {number}, expected a number above 0")
            return Figure(number * unit, table["sources"][source]["mark"], table["sources"][source]["text"])

        def stated(key: str, unit: float) -> Figure:
            found = figure(key, unit)
            if found is None:
                raise KeyError(f"{name} has no {key}")
            return found

        return Device(
            name=name,
            memory_bytes=stated("memory_gb", 1e9),
            bandwidth_bytes_s=stated("bandwidth_tb_s", 1e12),
            reached_bytes_s=figure("reached_tb_s", 1e12),
            bf16_flop_s=stated("bf16_tflop_s", 1e12),
            fp8_flop_s=figure("fp8_tflop_s", 1e12),
            link_bytes_s=stated("link_gb_s", 1e9),
            fp4_flop_s=figure("fp4_tflop_s", 1e12),
            vendor=values["vendor"],
            architecture=values["architecture"],
            units=values["units"],
            topology=values["topology"],
            aliases=tuple(values.get("aliases", ())),
        )

    return tuple(device(name, values) for name, values in table["devices"].items())


def with_file(path: Path) -> Table:
    """The catalogue and the entries of ``path`` (``fullbore inspect machine --write``), whose names win.

    UsageError where the file cannot be read or holds no catalogue.
    """
    try:
        own = tomllib.loads(path.read_text(encoding="utf-8"))
        devices_of(own)
        servers = {
            name: (each["device"], each["count"], each["note"]) for name, each in own["servers"].items()
        }
    except OSError as error:
        raise UsageError(f"--catalogue {path} cannot be read: {error.strerror}") from error
    except (
        tomllib.TOMLDecodeError,
        UnicodeDecodeError,
        KeyError,
        TypeError,
        ValueError,
        AttributeError,
    ) as error:
        raise UsageError(
            f"--catalogue {path} is no catalogue ({error}); expected tables of sources, devices and servers, "
            "as fullbore inspect machine --write makes them"
        ) from error
    table = {part: {**read_table().get(part, {}), **own[part]} for part in ("sources", "devices", "servers")}
    for name, (device, _, _) in servers.items():
        if device not in table["devices"]:
            raise UsageError(
                f"--catalogue {path}: server {name} is of {device}, which is not among its devices"
            )
    return table


@cache
def read_table() -> dict[str, Any]:
    """The data file as it stands."""
    return tomllib.loads(_FILE.read_text(encoding="utf-8"))
