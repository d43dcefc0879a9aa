"""Distributions as users write them: in a scenario file, on the command line, and as files of lengths."""

import csv
from collections import Counter
from collections.abc import Callable
from io import StringIO
from typing import Any

from fullbore.errors import UsageError
from fullbore.scenario.fields import Table, read_text
from fullbore.scenario.lengths import MOST_TOKENS, Choice, Fixed, Lengths, LogNormal, Normal, Uniform

DEFAULT_COLUMN = "1"


def read_lengths(
    table: Table, key: str, *, unit: int = 1, least: int = 1, most: int = MOST_TOKENS, what: str = "tokens"
) -> Lengths:
    """The distribution at ``key``: a number, or a table with ``distribution = "..."``.

    ``unit`` 1000: written in seconds, drawn in milliseconds. ``least`` and ``most`` bound what is drawn.
    """
    whole = _Wholes(unit, least, most, what)
    if not isinstance(table.values.get(key), dict):
        return Fixed(whole(table, key))
    inner = table.table(key)
    kind = inner.one_of("distribution", _KINDS)
    names, read = _KINDS[kind]
    inner.refuse_others(("distribution", *names))
    return read(inner, whole)


def parse_lengths(text: str, flag: str = "--input") -> Lengths:
    """A distribution on the command line. UsageError that says what can be written.

    ``128`` always; ``64-192`` uniform; ``128,512,2048`` equally often; and with the names of the scenario
    file ``lognormal:mean=512,stdev=600,low=16,high=4096``, ``normal:`` likewise, ``file:lengths.txt`` or
    ``file:lengths.csv,column=output``.
    """
    name, colon, rest = text.partition(":")
    values: Any
    try:
        if colon:
            if name == "file":
                rest = f"file={rest}"
            pairs = (part.partition("=") for part in rest.split(","))
            values = {"distribution": name, **{key.strip(): _number(value) for key, _, value in pairs}}
        elif "," in text:
            values = {"distribution": "choice", "values": [int(part) for part in text.split(",")]}
        elif "-" in text.strip()[1:]:
            low, high = text.split("-")
            values = {"distribution": "uniform", "low": int(low), "high": int(high)}
        else:
            values = int(text)
    except ValueError as error:
        raise UsageError(
            f"{flag} {text}: expected tokens such as 128, a range 64-192, a choice 128,512,2048, "
            "lognormal:mean=512,stdev=600,low=16,high=4096, or file:lengths.txt"
        ) from error
    return read_lengths(Table(f"{flag} {text}", {"tokens": values}), "tokens")


class _Wholes:
    """Takes whole numbers of one unit out of tables, inside the bounds of what is drawn."""

    def __init__(self, unit: int, least: int, most: int, what: str) -> None:
        self.unit, self.least, self.most, self.what = unit, least, most, what

    def __call__(self, table: Table, key: str) -> int:
        if self.unit == 1:
            return table.whole(key, self.least, self.most)
        number = round(table.number_from(key, self.what, self.least / self.unit) * self.unit)
        if number > self.most:
            raise table.error(key, f"{self.what} of at most {self.most / self.unit:g}")
        return number

    def range(self, table: Table) -> tuple[int, int]:
        low, high = self(table, "low"), self(table, "high")
        if low > high:
            raise table.error("high", f"at least low, {table.values['low']}")
        return low, high

    def all(self, table: Table, key: str, values: list[Any]) -> tuple[int, ...]:
        return tuple(self(Table(table.source, {key: value}, table.path), key) for value in values)


def _uniform(table: Table, whole: _Wholes) -> Lengths:
    return Uniform(*whole.range(table))


def _bell(kind: type[Normal] | type[LogNormal]) -> Callable[[Table, _Wholes], Lengths]:
    def read(table: Table, whole: _Wholes) -> Lengths:
        low, high = whole.range(table)
        mean = table.number("mean", whole.what) * whole.unit
        if not low <= mean <= high:  # else nearly everything would be drawn at one bound
            raise table.error("mean", f"{whole.what} from low to high")
        return kind(mean, table.number("stdev", whole.what) * whole.unit, low, high)

    return read


def _choice(table: Table, whole: _Wholes) -> Lengths:
    values = whole.all(table, "values", table.numbers("values", f"a list of {whole.what}"))
    if "weights" not in table:
        return Choice(values, (1.0,) * len(values))
    weights = tuple(float(weight) for weight in table.numbers("weights", "a list of numbers"))
    if len(weights) != len(values):
        raise table.error("weights", f"one weight for each of the {len(values)} values")
    if min(weights) < 0 or sum(weights) <= 0:
        raise table.error("weights", "no weight below 0, and one above it")
    return Choice(values, weights)


def _file(table: Table, whole: _Wholes) -> Lengths:
    path = table.file("file", "the name of a file of lengths")
    wanted = table.text("column", "the name of a column", default=DEFAULT_COLUMN)
    rows = csv.reader(StringIO(read_text(path, f"{table.source}: {table.path}file")))
    column, counts = 0, Counter[int]()
    for line, row in enumerate(rows, start=1):
        cells = [cell.strip() for cell in row]
        if line == 1 and wanted != DEFAULT_COLUMN:
            if wanted not in cells:
                raise table.error("column", f"one of {', '.join(cells)}, as {path} begins")
            column = cells.index(wanted)
        elif any(cells) and not cells[0].startswith("#"):
            cell = cells[column] if column < len(cells) else ""
            place = Table(f"{table.source}: {path}:{line}", {"length": _number(cell)})
            counts[whole(place, "length")] += 1
    if not counts:
        raise table.error("file", "a file with at least one length")
    return Choice(tuple(sorted(counts)), tuple(float(counts[value]) for value in sorted(counts)))


def _number(text: str) -> int | float | str:
    """A number where ``text`` is one, else itself, for an error that shows it."""
    for kind in (int, float):
        try:
            return kind(text)
        except ValueError:
            continue
    return text


_KINDS: dict[str, tuple[tuple[str, ...], Callable[[Table, _Wholes], Lengths]]] = {
    "uniform": (("low", "high"), _uniform),
    "normal": (("mean", "stdev", "low", "high"), _bell(Normal)),
    "lognormal": (("mean", "stdev", "low", "high"), _bell(LogNormal)),
    "choice": (("values", "weights"), _choice),
    "file": (("file", "column"), _file),
}
