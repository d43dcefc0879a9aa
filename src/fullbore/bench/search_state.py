"""A search's file: everything that it measured, so that it can go on after a pause or a Ctrl-C."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import msgspec

from fullbore.bench.judge import Point, Run
from fullbore.errors import UsageError
from fullbore.results.files import replace_file
from fullbore.scenario.metrics import Record

SCHEMA = "fullbore.search/1"


@dataclass(frozen=True)
class State:
    """``identity``: what must be the same for the measured points to count: server, model, scenario,
    limits."""

    identity: Mapping[str, str]
    points: tuple[Point, ...] = ()
    schema: str = SCHEMA


def short(run: Sequence[Record]) -> Run:
    """Records as a search needs them: times from the run's first send, of the chunks the first and the
    last."""
    begin_s = min((record.sent_s for record in run), default=0.0)
    return tuple(
        replace(
            record,
            sent_s=record.sent_s - begin_s,
            ended_s=record.ended_s - begin_s,
            due_s=None if record.due_s is None else record.due_s - begin_s,
            chunks_s=tuple(chunk_s - begin_s for chunk_s in (*record.chunks_s[:1], *record.chunks_s[-1:])),
        )
        for record in run
    )


def load_state(path: str | Path, identity: Mapping[str, str]) -> State:
    """What ``path`` holds, or nothing measured if there is no such file.

    UsageError for a file that is no search of ours, or one of another server, model, scenario or limits.
    """
    try:
        text = Path(path).read_bytes()
    except FileNotFoundError:
        return State(identity)
    except OSError as error:
        raise UsageError(f"the search {path} cannot be read: {error.strerror}") from error
    try:
        state = msgspec.json.decode(text, type=State)
    except msgspec.DecodeError as error:
        raise UsageError(f"{path} is no search that can go on ({error}); name another file") from error
    if state.schema != SCHEMA:
        raise UsageError(f"{path} has the schema {state.schema!r}, expected {SCHEMA!r}; name another file")
    for name in dict.fromkeys([*identity, *state.identity]):
        there, here = (each.get(name, "not stated") for each in (state.identity, identity))
        if there != here:
            raise UsageError(
                f"{path} was measured with another {name}: {there} there, {here} here; "
                "run it as it was begun, or name another file"
            )
    return state


def save_state(path: str | Path, state: State) -> None:
    """Replace the file as a whole."""
    replace_file(path, msgspec.json.encode(state).decode() + "\n")
