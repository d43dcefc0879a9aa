"""A plan for a person: what to run, what it will do, how many people that is, and what limits it."""

from collections.abc import Iterator

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from fullbore.plan.answer import Answer, Part
from fullbore.plan.point_page import number, span, table
from fullbore.steptime.step import Interval


def page(found: Answer) -> Group:
    """The plan as it is printed."""
    return Group(*_parts(found))


def _parts(found: Answer) -> Iterator[RenderableType]:
    trial, search = found.trial, found.found
    server = trial.setting.server
    yield Text(f"{server.name} with {trial.profile.title}: {trial}", style="bold")
    if server.note:
        yield Text(server.note)
    yield Text(
        f"best of {search.tried} ways that fit ({len(search.unfit)} do not; {search.outdone} were out early)"
    )
    yield Text()
    yield _limits(found)
    peak = found.peak
    total = Interval.spread(peak.total_tok_s, peak.rate_deviation)
    yield Text(
        f"Peak: {number(total.mean)} tokens a second in and out ({span(total)}) with {peak.concurrency} in "
        "flight, scenario peak, no limit."
    )
    for part in found.parts:
        yield Text()
        yield from _people(part, found.inside)
    for part in found.parts:
        yield Text()
        yield from _advice(part)
    yield Text()
    yield Text(f"Throughput against waiting, {found.parts[0].demand.name}", style="bold")
    yield _front(found.parts[0])
    if found.losers:
        yield Text("Why the next ones lost", style="bold")
        for loser in found.losers:
            yield Text(f"{loser.way.trial}: {loser.why}")
        yield Text()
    for launch in found.launches:
        yield Text(launch.engine, style="bold")
        if launch.command:
            yield Text(launch.command)
        yield Text(f"Flags looked up in: {'; '.join(launch.sources)}.")
        for note in launch.notes:
            yield Text(f"Note: {note}.")
    yield Text()
    yield Text(f"Rests on: {trial.profile.rests_on}.")
    for note in found.notes:
        yield Text(f"Note: {note}.")


def _limits(found: Answer) -> Table:
    made = table(
        "inside its limits", "in flight", "9 of 10 sure", "TPOT ms", "TTFT ms", "output tok/s", "total"
    )
    for part in found.parts:
        seen, limits = part.reached, part.demand.limits
        step, first = seen.deviation
        made.add_row(
            f"{part.demand.name} ({limits.percentile} {limits.tpot_ms:g} ms, {limits.ttft_ms / 1e3:g} s)",
            str(part.best.concurrency),
            str(part.best.sure),
            _figure(Interval.spread(seen.tpot_ms, step)),
            _figure(Interval.spread(seen.ttft_ms, first)),
            _figure(Interval.spread(seen.output_tok_s, seen.rate_deviation)),
            _figure(Interval.spread(seen.total_tok_s, seen.rate_deviation)),
        )
    return made


def _people(part: Part, inside: float) -> Iterator[RenderableType]:
    yield Text(f"People, {part.demand.name}: {inside:.0%} of requests inside the limits", style="bold")
    asked = part.people[0].asked is not None
    names = ["active in the busy hour", "requests an hour each", "people on one server"]
    made = table(*names, *(["servers", "people on each", "wait", "inside"] if asked else []))
    for people in part.people:
        row = [f"{people.habits.active_share:.0%}", f"{people.habits.requests_hour:g}", f"{people.most:,}"]
        if people.asked:
            seen = people.asked
            row += [str(people.servers), f"{seen.people:,}", f"{seen.waits:.1%}", f"{seen.inside:.1%}"]
        made.add_row(*row)
    yield made


def _advice(part: Part) -> Iterator[RenderableType]:
    advice = part.advice
    yield Text(f"What limits {part.demand.name} with {advice.reached.concurrency} in flight", style="bold")
    parts = sorted(advice.parts_ms.items(), key=lambda item: -item[1])
    yield Text(", ".join(f"{kind} {part_ms:.1f} ms" for kind, part_ms in parts if part_ms >= 0.05))
    left = " and ".join(f"{share:.0%} of the {name}" for name, share in advice.headroom.items())
    yield Text(f"floor {advice.floor_ms:.1f} ms; left before the limits: {left}")
    made = table("if it had", "TPOT ms", "in flight inside the limits")
    for change in advice.changes:
        gain = change.limit - part.best.concurrency
        made.add_row(change.name, f"{change.tpot_ms:.1f}", f"{change.limit} ({gain:+d})")
    yield made


def _front(part: Part) -> Table:
    made = table("way", "in flight", "TPOT ms", "TTFT ms", "output tok/s")
    for spot in part.front:
        figures = (spot.tpot_ms, spot.ttft_ms, spot.output_tok_s)
        made.add_row(str(spot.trial), str(spot.concurrency), *map(number, figures))
    return made


def _figure(interval: Interval) -> str:
    return f"{number(interval.mean)} ({span(interval)})"
