"""Servers: so many devices of one kind, joined by links. ``8xMI300X``, or a name of the catalogue."""

import re
from dataclasses import dataclass

from fullbore.errors import UsageError, did_you_mean
from fullbore.hardware.catalogue import Device, Table, devices_of, find_device, read_table

MOST_DEVICES = 1024


@dataclass(frozen=True)
class Server:
    """``count`` devices in one machine. ``note``: what the catalogue says about it."""

    name: str
    device: Device
    count: int
    note: str = ""


def find_server(text: str, table: Table | None = None) -> Server:
    """The server that ``8xMI300X``, ``4xh100`` or a name of the catalogue means; UsageError for others.

    table: None for the catalogue alone (see ``catalogue.with_file``).
    """
    table = read_table() if table is None else table
    named = table["servers"]
    if text.lower() in named:
        entry = named[text.lower()]
        return Server(text.lower(), find_device(entry["device"], table), entry["count"], entry["note"])
    parts = re.fullmatch(r"(\d{1,5}) ?[xX*] ?(\S+)", text.strip())
    if parts is None:
        # A device alone lacks its count; most servers have eight.
        servers = {
            f"8x{word}".lower(): f"8x{each.name}"
            for each in devices_of(table)
            for word in (each.name, *each.aliases)
        }
        near = servers.get(f"8x{text.lower()}", text)
        known = [*servers.values(), *named]
        raise UsageError(
            f"unknown server {text[:60]!r}{did_you_mean(near, known)}; expected a count and a device such as "
            f"8xMI300X, or one of {', '.join(named)}"
        )
    count, device = int(parts[1]), find_device(parts[2], table)
    if not 1 <= count <= MOST_DEVICES:
        raise UsageError(f"server {text[:60]!r} has {count} devices; expected 1 to {MOST_DEVICES}")
    return Server(f"{count}x{device.name}", device, count)
