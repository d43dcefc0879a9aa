"""Runs side by side: each figure as a multiple of the first run's, and whether that could be chance."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

from fullbore.results.notes import emulation_note
from fullbore.results.result import TITLES, Result
from fullbore.scenario.confidence import Interval
from fullbore.scenario.samples import Sample, ratio, samples

Z95 = 1.959963984540054  # the normal quantile that leaves 2.5 % above it


@dataclass(frozen=True)
class Run:
    """The results of one file."""

    name: str
    results: tuple[Result, ...]


@dataclass(frozen=True)
class Compared:
    """One figure of one run. ``ratio``: to the first run's; None for that one, and where a figure is missing.

    interval: 95 %, None where the runs are too short to say or keep no requests. differs: None likewise.
    """

    value: float | None
    ratio: float | None = None
    interval: Interval | None = None

    @property
    def differs(self) -> bool | None:
        """Whether 1 is outside of the interval: else the two may be the same."""
        return None if self.interval is None else not self.interval.low <= 1 <= self.interval.high


@dataclass(frozen=True)
class Row:
    """One scenario at one load. ``of``: by the order of the runs, None for one that did not measure it."""

    scenario: str
    point: str
    of: tuple[dict[str, Compared] | None, ...]


@dataclass(frozen=True)
class Comparison:
    """``rows``: what several runs measured; ``alone``: what only one did; ``notes``: unequal conditions."""

    names: tuple[str, ...]
    rows: tuple[Row, ...]
    alone: tuple[str, ...]
    notes: tuple[str, ...]
    simulated: bool  # whether any of them is


def compare(runs: Sequence[Run]) -> Comparison:
    """Results are matched by scenario and load; of one that a run has twice, the last counts."""
    points: dict[tuple[str, str], list[Result | None]] = {}
    for place, run in enumerate(runs):
        for result in run.results:
            key = result.scenario.summary, result.point
            points.setdefault(key, [None] * len(runs))[place] = result
    shared = {key: found for key, found in points.items() if sum(each is not None for each in found) > 1}
    alone = [
        f"{summary} at {point}: only in {runs[next(n for n, each in enumerate(found) if each)].name}"
        for (summary, point), found in points.items()
        if (summary, point) not in shared
    ]
    rows = [Row(summary, point, _row(found)) for (summary, point), found in shared.items()]
    notes = [note for found in shared.values() for note in _unequal(runs, found)]
    simulated = any(result.simulated for run in runs for result in run.results)
    return Comparison(
        tuple(run.name for run in runs), tuple(rows), tuple(alone), tuple(dict.fromkeys(notes)), simulated
    )


def _row(found: Sequence[Result | None]) -> tuple[dict[str, Compared] | None, ...]:
    """Ratios are to the first that is there."""
    first = next(result for result in found if result is not None)
    return tuple(
        None
        if result is None
        else {name: _compared(name, result, None if result is first else first) for name in TITLES}
        for result in found
    )


def _compared(name: str, result: Result, first: Result | None) -> Compared:
    value = result.value(name)
    if first is None:
        return Compared(value)
    base = first.value(name)
    known = value is not None and base
    between = ratio(_sample(name, result), _sample(name, first)) if known else None
    if between is not None:
        between = _doubted(between, _doubt(name, result), _doubt(name, first))
    return Compared(value, value / base if value is not None and base else None, between)


def _doubt(name: str, result: Result) -> float:
    """Standard deviation of the logarithm of truth over figure; 0 for what was measured."""
    return result.simulated.deviation.get(name, 0.0) if result.simulated else 0.0


def _doubted(chance: Interval, *doubts: float) -> Interval:
    """``chance`` and what models may be off by, which are independent of each other."""
    model = Z95 * math.hypot(*doubts)
    if not model:
        return chance
    below = math.log(chance.estimate / chance.low) if chance.low > 0 else math.inf
    above = math.log(chance.high / chance.estimate)
    return replace(
        chance,
        low=chance.estimate * math.exp(-math.hypot(below, model)),
        high=chance.estimate * math.exp(math.hypot(above, model)),
    )


def _sample(name: str, result: Result) -> Sample | None:
    return samples(result.records, result.figures.steady, result.timeline).get(name)


def _unequal(runs: Sequence[Run], found: Sequence[Result | None]) -> list[str]:
    """What else differs than the thing that was to be compared."""
    there = [(run.name, result) for run, result in zip(runs, found, strict=True) if result is not None]
    said = []
    for what, told in (
        (
            "answers",
            [round(each.figures.output_tokens / max(1, each.figures.requests_ok)) for _, each in there],
        ),
        (
            "prompts",
            [round(each.figures.input_tokens / max(1, each.figures.requests_ok)) for _, each in there],
        ),
        ("the client's machine", [each.client.cpu for _, each in there if each.client.cpu]),
        ("the tool", [each.tool for _, each in there]),
        (
            "what is compared",
            ["measured" if each.simulated is None else "simulated" for _, each in there],
        ),
    ):
        if len(set(told)) > 1:
            said.append(f"{what} differ: {', '.join(map(str, dict.fromkeys(told)))}")
    for name, each in there:
        if each.server.emulated:
            said.append(f"{name}: {emulation_note(each)}")
        if each.figures.requests_failed:
            said.append(f"{name}: {each.figures.requests_failed} requests failed at {each.point}")
    return said
