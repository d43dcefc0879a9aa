"""Reading the fields of a JSON object one by one, so that what nobody asked for is known at the end."""

import difflib
import math
from collections.abc import Collection
from typing import Any

from fullbore.errors import ConfigError

LARGEST = 2**31 - 1
_MISSING = object()


class Fields:
    """``values`` are the object's fields, ``where`` names it in messages (``config.json: rope_scaling``)."""

    def __init__(self, values: dict[str, Any], where: str) -> None:
        self._values = values
        self._where = where
        self._asked: set[str] = set()

    def error(self, name: str, expected: str) -> ConfigError:
        """The refusal of a field's value."""
        return ConfigError(f"{self._where}: {name} is {_short(self._values.get(name))}, expected {expected}")

    def has(self, name: str) -> bool:
        """Whether the field is there and not null."""
        return self._values.get(name) is not None

    def any(self, name: str, default: Any = _MISSING) -> Any:
        """The value as it stands; null counts as absent where there is a default."""
        self._asked.add(name)
        value = self._values.get(name)
        if value is None and default is not _MISSING:
            return default
        if name not in self._values:
            close = difflib.get_close_matches(name, sorted(self._values), 1, 0.8)
            hint = f" (it has {close[0]!r})" if close else ""
            raise ConfigError(f"{self._where}: the field {name} is missing{hint}")
        return value

    def integer(self, name: str, default: Any = _MISSING, least: int = 1, most: int = LARGEST) -> int:
        value = self.any(name, default)
        if isinstance(value, bool) or not isinstance(value, int) or not least <= value <= most:
            top = "" if most == LARGEST else f" and at most {most}"
            raise self.error(name, f"a whole number of at least {least}{top}")
        return value

    def number(self, name: str, default: Any = _MISSING, least: float = 0.0, positive: bool = True) -> float:
        """A finite number above ``least``, or from it on when not ``positive``."""
        value = self.any(name, default)
        good = isinstance(value, int | float) and not isinstance(value, bool) and abs(value) < 1e30
        if not good or not math.isfinite(value) or value < least or (positive and value == least):
            raise self.error(name, f"a number {'above' if positive else 'of at least'} {least:g}")
        return float(value)

    def boolean(self, name: str, default: Any = _MISSING) -> bool:
        value = self.any(name, default)
        if not isinstance(value, bool):
            raise self.error(name, "true or false")
        return value

    def only(self, name: str, accepted: Collection[Any], default: Any = _MISSING) -> Any:
        """A field of which some values only are supported; others change the result and are refused."""
        value = self.any(name, default)
        if not any(type(value) is type(one) and value == one for one in accepted):
            listed = " or ".join(_short(one) for one in accepted)
            raise self.error(name, f"{listed}; other values are not supported")
        return value

    def agrees(self, name: str, value: Any, other: str) -> None:
        """A field that repeats what ``other`` says, if it is there."""
        if self.any(name, value) != value:
            raise self.error(name, f"{_short(value)}, as {other} says")

    def object(self, name: str) -> dict[str, Any] | None:
        value = self.any(name, None)
        if value is not None and not isinstance(value, dict):
            raise self.error(name, "an object or null")
        return value

    def refuse_unknown(self, harmless: Collection[str]) -> None:
        """ConfigError for a field that is set, was not asked for and is not known to be ``harmless``.

        A field that is null, false, 0 or empty switches nothing on, and one with a leading underscore is a
        library's own bookkeeping: both pass.
        """
        for name, value in self._values.items():
            off = value is None or value is False or value in (0, "", [], {})
            if off or name in self._asked or name in harmless or name.startswith("_"):
                continue
            close = difflib.get_close_matches(name, sorted(self._asked), 1, 0.8)
            hint = f"did you mean {close[0]}? Otherwise, if" if close else "if"
            raise ConfigError(
                f"{self._where}: the field {name} (= {_short(value)}) is not known and may change what "
                f"the model computes; {hint} it is bookkeeping only, remove it from the file"
            )


def _short(value: Any) -> str:
    text = (
        repr(value)
        if not isinstance(value, bool | None)
        else {True: "true", False: "false", None: "null"}[value]
    )
    return text if len(text) <= 80 else text[:77] + "..."
