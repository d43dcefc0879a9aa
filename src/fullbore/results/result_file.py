"""Results in a file: JSON with a versioned schema, written as a whole and read back as it was.

A request's chunks are not kept one by one: the file has the first and the last of them and how many there
were, beside a histogram of all gaps and the timeline of the run. So it stays small however long the
answers are.
"""

import json
import os
import tempfile
from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime
from itertools import compress
from pathlib import Path
from typing import Any

import msgspec

from fullbore import __version__
from fullbore.errors import FullboreError
from fullbore.results.files import replace_file
from fullbore.results.identity import Machine, Server, Simulation
from fullbore.results.result import Asked, Result
from fullbore.scenario.histogram import Histogram
from fullbore.scenario.metrics import Figures, Record, Spread
from fullbore.scenario.samples import Certainty
from fullbore.scenario.timeline import Timeline

SCHEMA = "fullbore.bench/2"  # the number changes when a field changes its meaning or goes away


class Requests(msgspec.Struct):
    """A column for each fact, an element for each request. Seconds count from the run's first send."""

    number: list[int]
    session: list[int]
    turn: list[int]
    asked_input_tokens: list[int]
    asked_output_tokens: list[int]
    input_tokens: list[int]
    output_tokens: list[int]
    due_s: list[float | None]
    sent_s: list[float]
    first_s: list[float | None]  # null: no chunk came
    last_s: list[float | None]
    ended_s: list[float]
    chunks: list[int]
    outcome: list[str]
    errors: dict[str, str] = {}  # place in the columns -> what a failed one was told


class Entry(msgspec.Struct):
    """One result of a file."""

    scenario: Asked
    concurrency: int | None
    rate_s: float | None
    server: Server
    client: Machine
    figures: Figures
    certainty: Certainty
    timeline: Timeline | None
    itl: Histogram | None
    requests: Requests
    lag_ms: Spread | None
    late_ms: Spread | None
    prompts: str
    processes: int
    ended_early: str
    failed: bool
    tool: str
    remarks: tuple[str, ...]
    simulated: Simulation | None = None


def write_json(path: str | Path, results: Sequence[Result]) -> Path:
    """Replace ``path`` as a whole and return where the results are.

    That is a file in the folder for temporary ones where ``path`` cannot be written any more (a disk that
    is full, a folder that is gone): hours of measuring are worth more than their name. FullboreError when
    neither can.
    """
    text = as_text(results)
    try:
        replace_file(path, text)
    except OSError as error:
        other = Path(tempfile.gettempdir()) / f"{Path(path).stem}-{os.getpid()}.json"
        try:
            replace_file(other, text)
        except OSError as second:
            raise FullboreError(
                f"the results cannot be written to {path} ({error.strerror}), "
                f"nor to {other} ({second.strerror})"
            ) from error
        return other
    return Path(path)


def as_text(results: Sequence[Result]) -> str:
    """The file's text: what a person reads first comes first, and a column is one line."""
    report = {
        "schema": SCHEMA,
        "fullbore": __version__,
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
        "results": [msgspec.to_builtins(_entry(result)) for result in results],
    }
    return "".join(_lines(report, 0)) + "\n"


def entries(report: Mapping[str, Any], source: str) -> tuple[Result, ...]:
    """The results of a file's parsed JSON. FullboreError where a field is missing or of a wrong type."""
    try:
        found = msgspec.convert(report.get("results"), list[Entry])
    except msgspec.ValidationError as error:
        raise FullboreError(
            f"{source} says that it is {SCHEMA}, but is not: {error}; was it changed, or cut off?"
        ) from error
    return tuple(_result(entry, source) for entry in found)


def _entry(result: Result) -> Entry:
    return Entry(
        scenario=result.scenario,
        concurrency=result.concurrency,
        rate_s=result.rate_s,
        server=result.server,
        client=result.client,
        figures=result.figures,
        certainty=result.certainty,
        timeline=result.timeline,
        itl=result.itl,
        requests=_columns(result.records),
        lag_ms=result.lag_ms,
        late_ms=result.late_ms,
        prompts=result.prompts,
        processes=result.processes,
        ended_early=result.ended_early,
        failed=result.failed,
        tool=result.tool,
        remarks=result.remarks,
        simulated=result.simulated,
    )


def _result(entry: Entry, source: str) -> Result:
    return Result(
        scenario=entry.scenario,
        concurrency=entry.concurrency,
        rate_s=entry.rate_s,
        server=entry.server,
        client=entry.client,
        figures=entry.figures,
        certainty=entry.certainty,
        timeline=entry.timeline,
        itl=entry.itl,
        records=_records(entry.requests, source),
        lag_ms=entry.lag_ms,
        late_ms=entry.late_ms,
        prompts=entry.prompts,
        processes=entry.processes,
        ended_early=entry.ended_early,
        failed=entry.failed,
        tool=entry.tool,
        remarks=entry.remarks,
        simulated=entry.simulated,
        source=source,
    )


def _columns(records: Sequence[Record]) -> Requests:
    begin_s = min((record.sent_s for record in records), default=0.0)

    def since(times_s: Iterable[float | None]) -> list[float | None]:
        return [None if time_s is None else round(time_s - begin_s, 6) for time_s in times_s]

    return Requests(
        number=[record.number for record in records],
        session=[record.session for record in records],
        turn=[record.turn for record in records],
        asked_input_tokens=[record.asked_input for record in records],
        asked_output_tokens=[record.asked_output for record in records],
        input_tokens=[record.input_tokens for record in records],
        output_tokens=[record.output_tokens for record in records],
        due_s=since(record.due_s for record in records),
        sent_s=[round(record.sent_s - begin_s, 6) for record in records],
        first_s=since(record.chunks_s[0] if record.chunks_s else None for record in records),
        last_s=since(record.chunks_s[-1] if record.chunks_s else None for record in records),
        ended_s=[round(record.ended_s - begin_s, 6) for record in records],
        chunks=[record.chunks for record in records],
        outcome=[record.outcome for record in records],
        errors={str(place): record.error for place, record in enumerate(records) if record.error},
    )


def _records(columns: Requests, source: str) -> tuple[Record, ...]:
    names = [name for name in columns.__struct_fields__ if name != "errors"]
    lengths = [len(getattr(columns, name)) for name in names]
    if len(set(lengths)) > 1:
        odd = next(compress(names, (length != lengths[0] for length in lengths)))
        raise FullboreError(
            f"{source}: of its requests, {names[0]} has {lengths[0]} elements and {odd} another number; "
            "was the file changed?"
        )
    return tuple(
        Record(
            number=columns.number[place],
            asked_input=columns.asked_input_tokens[place],
            asked_output=columns.asked_output_tokens[place],
            sent_s=columns.sent_s[place],
            ended_s=columns.ended_s[place],
            chunks_s=ends(columns.first_s[place], columns.last_s[place], columns.chunks[place]),
            input_tokens=columns.input_tokens[place],
            output_tokens=columns.output_tokens[place],
            outcome=columns.outcome[place],
            error=columns.errors.get(str(place), ""),
            due_s=columns.due_s[place],
            session=columns.session[place],
            turn=columns.turn[place],
            counted=columns.chunks[place],
        )
        for place in range(lengths[0])
    )


def ends(first_s: float | None, last_s: float | None, chunks: int) -> tuple[float, ...]:
    """A request's chunks where only the first, the last and their number are known."""
    if first_s is None or last_s is None:
        return ()
    return (first_s,) if chunks < 2 else (first_s, last_s)


def _lines(value: Any, depth: int) -> Iterable[str]:
    """JSON with a line for each field, but none for each element of a list of plain values."""
    pad = " " * (depth + 1)
    if isinstance(value, dict) and value:
        for place, (key, each) in enumerate(value.items()):
            yield f"{',' if place else '{'}\n{pad}{json.dumps(key)}: "
            yield from _lines(each, depth + 1)
        yield f"\n{' ' * depth}}}"
    elif isinstance(value, list) and any(isinstance(each, dict) for each in value):
        for place, each in enumerate(value):
            yield f"{',' if place else '['}\n{pad}"
            yield from _lines(each, depth + 1)
        yield f"\n{' ' * depth}]"
    else:
        yield json.dumps(value, separators=(",", ":"))
