"""What other engines' operators took on an H200, as recorded (h200_operator_times.csv)."""

import csv
from bisect import bisect_left
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path

FILE = Path(__file__).with_name("h200_operator_times.csv")
# Which records make one of our parts. A router there is its product alone, here the choice too.
SUMS: Mapping[tuple[str, str], tuple[str, ...]] = {
    ("attention", "tp8"): ("attention before", "attention core", "attention after"),
    ("attention", "ep8dp8"): ("attention before", "attention core", "attention after"),
    ("experts", "tp8"): ("experts", "shared gate_up", "shared down"),
    ("shared", "ep8dp8"): ("shared gate_up", "shared down"),
    ("dense", "tp8"): ("dense gate_up", "dense down"),
    **{
        (name, layout): (name,)
        for name in ("qkv_a", "q_b", "o", "router", "head")
        for layout in ("tp8", "ep8dp8")
    },
    ("experts", "ep8dp8"): ("experts",),
}


@dataclass(frozen=True)
class Recorded:
    """``us`` of an engine; ``between``: interpolated between two batches or contexts."""

    engine: str
    us: float
    between: bool


def recorded(name: str, layout: str, batch: int, context: int) -> tuple[Recorded, ...]:
    """Of each engine that has every record that is needed; ``batch``: of the whole server."""
    found = []
    for engine, times in _engines().items():
        parts = [_at(times, part, layout, batch, context) for part in SUMS.get((name, layout), ())]
        known = [part for part in parts if part is not None]
        if known and len(known) == len(parts):
            us = sum(each for each, _ in known)
            found.append(Recorded(engine, us, any(between for _, between in known)))
    return tuple(found)


Times = Mapping[tuple[str, str], Mapping[tuple[int, int], float]]


@cache
def _engines() -> Mapping[str, Times]:
    """Engine and version -> (part, layout) -> (batch, context) -> us."""
    lines = [line for line in FILE.read_text().splitlines() if not line.startswith("#")]
    found: dict[str, dict[tuple[str, str], dict[tuple[int, int], float]]] = {}
    for row in csv.DictReader(lines):
        times = found.setdefault(f"{row['engine']} {row['version']}", {})
        at = int(row["batch"]), int(row["context"] or 0)
        times.setdefault((row["part"], row["layout"]), {})[at] = float(row["us"])
    return found


def _at(times: Times, part: str, layout: str, batch: int, context: int) -> tuple[float, bool] | None:
    """The time, and whether it lies between records; None beyond them."""
    known = times.get((part, layout)) or times.get((part, "any")) or {}
    contexts = sorted({at for _, at in known})
    if contexts == [0]:
        context = 0
    column = [at for at in contexts if at == context] or _around(contexts, context)
    found = []
    for at in column:
        batches = sorted(number for number, there in known if there == at)
        ends = [batch] if batch in batches else _around(batches, batch)
        if not ends:
            return None
        found.append(_line(batch, {end: known[end, at] for end in ends}))
    if not found:
        return None
    us = _line(context, dict(zip(column, found, strict=True)))
    return us, (batch, context) not in known


def _around(numbers: Sequence[int], wanted: int) -> list[int]:
    place = bisect_left(numbers, wanted)
    return [numbers[place - 1], numbers[place]] if 0 < place < len(numbers) else []


def _line(wanted: int, ends: Mapping[int, float]) -> float:
    if len(ends) == 1:
        return next(iter(ends.values()))
    (x0, y0), (x1, y1) = sorted(ends.items())
    return y0 + (y1 - y0) * (wanted - x0) / (x1 - x0)
