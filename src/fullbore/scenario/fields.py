"""Tables of a scenario file: each value is taken out by name and checked once, here."""

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fullbore.errors import UsageError, did_you_mean

REQUIRED: Any = object()  # a default that says: there is none


@dataclass(frozen=True)
class Table:
    """Some named values. Every error is a UsageError that begins with ``source`` and the field.

    ``path``: of the table inside its source, ``arrival.`` or "". ``folder``: file names in it are relative
    to that.
    """

    source: str
    values: Mapping[str, Any]
    path: str = ""
    folder: Path = Path()

    def __contains__(self, key: str) -> bool:
        return key in self.values

    def refuse_others(self, known: Iterable[str]) -> None:
        """Names that mean nothing are slips: a misspelt limit would silently not be kept."""
        names = tuple(known)
        for key in self.values:
            if key not in names:
                hint = did_you_mean(key, names) or f"; known are {', '.join(names)}"
                raise UsageError(f"{self.source}: unknown {self.path}{key}{hint}")

    def error(self, key: str, expected: str) -> UsageError:
        return UsageError(f"{self.source}: {self.path}{key} = {self.values[key]!r}; expected {expected}")

    def _value(self, key: str, default: Any) -> Any:
        if key in self.values:
            return self.values[key]
        if default is REQUIRED:
            raise UsageError(f"{self.source}: {self.path}{key} is missing")
        return default

    def whole(self, key: str, low: int, high: int, default: Any = REQUIRED) -> int:
        """A whole number inside its bounds."""
        value = self._value(key, default)
        if key in self.values and (
            isinstance(value, bool) or not isinstance(value, int) or not low <= value <= high
        ):
            raise self.error(key, f"a whole number from {low} to {high}")
        return int(value)

    def number(self, key: str, what: str, above: float = 0.0, default: Any = REQUIRED) -> float:
        """A finite number above ``above``; ``what`` it is, in plain words and with its unit."""
        value = self._value(key, default)
        if key in self.values and not (_is_number(value) and above < value):
            raise self.error(key, f"{what} above {above:g}")
        return float(value)

    def number_from(self, key: str, what: str, least: float = 0.0, default: Any = REQUIRED) -> float:
        """A finite number of at least ``least``."""
        value = self._value(key, default)
        if key in self.values and not (_is_number(value) and least <= value):
            raise self.error(key, f"{what} of at least {least:g}")
        return float(value)

    def text(self, key: str, what: str, default: Any = REQUIRED) -> str:
        value = self._value(key, default)
        if key in self.values and not (isinstance(value, str) and value):
            raise self.error(key, what)
        return str(value)

    def one_of(self, key: str, known: Iterable[str], default: Any = REQUIRED) -> str:
        value, names = self._value(key, default), tuple(known)
        if value not in names:
            hint = did_you_mean(value, names) if isinstance(value, str) else ""
            raise self.error(key, f"one of {', '.join(names)}{hint}")
        return str(value)

    def numbers(self, key: str, what: str) -> list[float]:
        """A list of finite numbers that is not empty."""
        value = self._value(key, REQUIRED)
        if not isinstance(value, list) or not value or not all(_is_number(each) for each in value):
            raise self.error(key, what)
        return list(value)

    def table(self, key: str) -> "Table":
        value = self._value(key, REQUIRED)
        if not isinstance(value, Mapping):
            raise self.error(key, f"a table [{self.path}{key}]")
        return Table(self.source, value, f"{self.path}{key}.", self.folder)

    def file(self, key: str, what: str) -> str:
        """The path of a file, relative to this table's own folder; whether it is there is not looked at."""
        return str(self.folder / self.text(key, what))


def read_text(path: str, what: str) -> str:
    """A whole file of UTF-8 text. UsageError that names ``what`` it was to be and why it cannot be read."""
    try:
        return Path(path).read_text(encoding="utf-8-sig")
    except OSError as error:
        raise UsageError(f"{what} {path} cannot be read: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise UsageError(
            f"{what} {path} is not UTF-8 text (byte {error.start} is 0x{error.object[error.start]:02x}); "
            "convert it first, for instance with iconv"
        ) from error


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
