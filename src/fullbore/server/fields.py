"""Reads one JSON object field by field: type, range, and which fields nobody asked for.

``null`` is the same as leaving a field out. Every refusal is a 400 that names the field, its value, and what
was expected.
"""

import math
from collections.abc import Mapping, Sequence
from typing import TypeVar

from fullbore.server.errors import ApiError, invalid

D = TypeVar("D")
NAMES = {
    str: "a string", bool: "a boolean", int: "an integer", float: "a number", list: "an array",
    dict: "an object", type(None): "null",
}  # fmt: skip


def show(value: object) -> str:
    """A value as an error message may repeat it: short, whatever it was."""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, int):
        return str(value) if value.bit_length() <= 96 else f"an integer of {value.bit_length()} bits"
    if isinstance(value, float):
        return repr(value)
    if isinstance(value, str):
        return repr(value) if len(value) <= 60 else f"a string of {len(value)} characters"
    if isinstance(value, list):
        return f"an array of {len(value)}"
    return NAMES.get(type(value), type(value).__name__)


class Fields:
    """The fields of one object. ``where`` is its path in the body, such as ``messages[2]``."""

    def __init__(self, data: Mapping[str, object], where: str = "") -> None:
        self._data = data
        self._where = where
        self._read: set[str] = set()
        self._below: list[str] = []

    def path(self, name: str) -> str:
        return f"{self._where}.{name}" if self._where else name

    def get(self, name: str) -> object:
        self._read.add(name)
        return self._data.get(name)

    def given(self, name: str) -> bool:
        return self.get(name) is not None

    def wrong(self, name: str, expected: str) -> ApiError:
        path = self.path(name)
        return invalid(f"{path} is {show(self._data.get(name))}, expected {expected}", path)

    def boolean(self, name: str, default: D) -> bool | D:
        value = self.get(name)
        if value is None:
            return default
        if not isinstance(value, bool):
            raise self.wrong(name, "true or false")
        return value

    def integer(self, name: str, default: D, low: int, high: int) -> int | D:
        value = self.get(name)
        if value is None:
            return default
        if isinstance(value, bool) or not isinstance(value, int) or not low <= value <= high:
            raise self.wrong(name, f"an integer from {low} to {high}")
        return value

    def number(self, name: str, default: D, low: float, high: float, above: bool = False) -> float | D:
        """``above``: the range excludes ``low``."""
        value = self.get(name)
        if value is None:
            return default
        start = f"above {low:g}" if above else f"from {low:g}"
        if (
            isinstance(value, bool)
            or not isinstance(value, int | float)
            or not low <= value <= high
            or (above and value == low)
            or not math.isfinite(value)
        ):
            raise self.wrong(name, f"a number {start} to {high:g}")
        return float(value)

    def string(self, name: str, default: D, most: int | None = None) -> str | D:
        value = self.get(name)
        if value is None:
            return default
        if not isinstance(value, str):
            raise self.wrong(name, "a string")
        if most is not None and len(value) > most:
            raise self.wrong(name, f"at most {most} characters")
        return value

    def choice(self, name: str, default: D, choices: Sequence[str]) -> str | D:
        value = self.get(name)
        if value is None:
            return default
        if not isinstance(value, str) or value not in choices:
            raise self.wrong(name, f"one of {', '.join(choices)}")
        return value

    def array(self, name: str, most: int) -> list[object] | None:
        value = self.get(name)
        if value is None:
            return None
        if not isinstance(value, list):
            raise self.wrong(name, "an array")
        if len(value) > most:
            raise self.wrong(name, f"at most {most} entries")
        return value

    def mapping(self, name: str, most: int) -> dict[str, object] | None:
        value = self.get(name)
        if value is None:
            return None
        if not isinstance(value, dict):
            raise self.wrong(name, "an object")
        if len(value) > most:
            raise invalid(
                f"{self.path(name)} has {len(value)} entries, expected at most {most}", self.path(name)
            )
        return value

    def unread(self) -> list[str]:
        """Paths of the fields that were sent and that nothing looked at."""
        return [self.path(name) for name in self._data if name not in self._read] + self._below

    def also_unread(self, nested: "Fields") -> None:
        """Count what nobody asked for inside ``nested``, an object in this one."""
        self._below += nested.unread()
