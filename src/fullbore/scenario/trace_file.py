"""Files of recorded requests: three formats, one row each, JSON lines or CSV."""

import csv
import hashlib
import json
import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from itertools import islice
from typing import Any

from fullbore.errors import UsageError
from fullbore.scenario.fields import Table
from fullbore.scenario.lengths import MOST_TOKENS

MOST_BLOCK = 1_000_000  # tokens that one hash may stand for


@dataclass(frozen=True, slots=True)
class Row:
    """One recorded request. ``time_s``: from the first one of the file; None where no times were recorded.

    ``blocks``: a hash of each ``block_tokens`` tokens of the prompt, the last one mostly partial; () where
    nothing is known of the content.
    """

    time_s: float | None
    input_tokens: int
    output_tokens: int
    blocks: tuple[int, ...] = ()


@dataclass(frozen=True)
class Format:
    """Which columns hold what. Other columns are not read."""

    inputs: tuple[str, ...]  # any one of these
    outputs: tuple[str, ...]
    time: str
    unit_s: float = 1.0  # of a time that is a number
    dates: bool = False  # times are dates in text
    times_needed: bool = True
    blocks: str = ""
    header: tuple[str, ...] = ()  # of a CSV file that has none


FORMATS = {
    # The Mooncake traces (FAST'25): JSON lines, milliseconds, hash_ids of 512 tokens each.
    "mooncake": Format(("input_length",), ("output_length",), "timestamp", unit_s=1e-3, blocks="hash_ids"),
    # guidellm: `trace_synthetic` (seconds), and data sets of token counts, which have no times.
    "guidellm": Format(
        ("input_length", "prompt_tokens_count", "input_tokens_count"),
        ("output_length", "output_tokens_count", "completion_tokens_count"),
        "timestamp",
        times_needed=False,
    ),
    # What inference-perf replays: CSV of the Azure LLM inference data sets, 2023 and 2024.
    "azure": Format(
        ("ContextTokens",),
        ("GeneratedTokens",),
        "TIMESTAMP",
        dates=True,
        header=("TIMESTAMP", "ContextTokens", "GeneratedTokens"),
    ),
}


def read_rows(path: str, kind: str, block_tokens: int, limit: int | None = None) -> tuple[list[Row], str]:
    """(the first ``limit`` rows in order of time, a digest of the lines that were read).

    UsageError that names file, line, field and value of the first line that cannot be used.
    """
    form, digest = FORMATS[kind], hashlib.blake2b(digest_size=8)
    rows: list[Row] = []
    for line, values in islice(_values(_lines(path, digest.update), path, form), limit):
        rows.append(_row(Table(f"{path}:{line}", values), form, block_tokens))
        if (rows[0].time_s is None) != (rows[-1].time_s is None):
            raise UsageError(f"{path}:{line}: {form.time} must be in every line or in none")
    if not rows:
        raise UsageError(f"{path} holds no requests; expected one a line in the {kind} format")
    begin_s = min(row.time_s or 0.0 for row in rows)
    rows.sort(key=lambda row: row.time_s or 0.0)
    if rows[0].time_s is not None:
        rows = [
            Row(row.time_s - begin_s, row.input_tokens, row.output_tokens, row.blocks)
            for row in rows
            if row.time_s is not None
        ]
    return rows, digest.hexdigest()


def _lines(path: str, seen: Callable[[bytes], object]) -> Iterator[str]:
    """One at a time: a trace may be larger than memory, and ``limit`` read only its beginning."""
    try:
        with open(path, "rb") as file:
            for number, line in enumerate(file, start=1):
                seen(line)
                yield line.decode("utf-8-sig" if number == 1 else "utf-8")
    except OSError as error:
        raise UsageError(f"the trace {path} cannot be read: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise UsageError(f"{path}:{number}: not UTF-8 text; is it compressed? expected plain text") from error


def _values(lines: Iterator[str], path: str, form: Format) -> Iterator[tuple[int, Mapping[str, Any]]]:
    """(line number, its values by name) of every line that is not blank."""
    if not path.endswith(".csv"):
        for number, line in enumerate(lines, start=1):
            if line.strip():
                yield number, _json_object(line, f"{path}:{number}")
        return
    reader = csv.reader(lines)
    names: tuple[str, ...] = ()
    for cells in reader:
        stripped = [cell.strip() for cell in cells]
        if not any(stripped):
            continue
        if not names:
            known = {form.time, *form.inputs, *form.outputs}
            if known & set(stripped) or not form.header:
                names = tuple(stripped)
                continue
            names = form.header
        if len(stripped) < len(names):
            raise UsageError(
                f"{path}:{reader.line_num}: {len(stripped)} cells; expected {len(names)}: {', '.join(names)}"
            )
        yield reader.line_num, dict(zip(names, map(_plain, stripped), strict=False))


def _json_object(line: str, where: str) -> Mapping[str, Any]:
    try:
        value = json.loads(line)
    except (json.JSONDecodeError, RecursionError) as error:
        raise UsageError(f"{where}: not JSON ({error}); expected one JSON object a line") from error
    if not isinstance(value, dict):
        raise UsageError(f"{where}: {line.strip()[:60]!r}; expected a JSON object")
    return value


def _plain(cell: str) -> int | float | str:
    try:
        return int(cell)
    except ValueError:
        pass
    try:
        return float(cell)
    except ValueError:
        return cell


def _row(table: Table, form: Format, block_tokens: int) -> Row:
    input_tokens = table.whole(_present(table, form.inputs), 1, MOST_TOKENS)
    output_tokens = table.whole(_present(table, form.outputs), 1, MOST_TOKENS)
    return Row(
        _time_s(table, form), input_tokens, output_tokens, _blocks(table, form, input_tokens, block_tokens)
    )


def _present(table: Table, names: tuple[str, ...]) -> str:
    return next((name for name in names if name in table), names[0])


def _time_s(table: Table, form: Format) -> float | None:
    if form.time not in table and not form.times_needed:
        return None
    if not form.dates:
        return table.number_from(form.time, "a time", least=-math.inf) * form.unit_s
    text = table.text(form.time, "a date and time such as 2023-11-16 18:15:46.680590")
    try:
        date = datetime.fromisoformat(text)
    except ValueError as error:
        raise table.error(form.time, "a date and time such as 2023-11-16 18:15:46.680590") from error
    return (date if date.tzinfo else date.replace(tzinfo=UTC)).timestamp()


def _blocks(table: Table, form: Format, input_tokens: int, block_tokens: int) -> tuple[int, ...]:
    if not form.blocks or form.blocks not in table:
        return ()
    blocks = table.values[form.blocks]
    if not isinstance(blocks, list) or any(type(block) is not int for block in blocks):
        raise table.error(form.blocks, "a list of whole numbers")
    wanted = -(-input_tokens // block_tokens)
    if len(blocks) != wanted:
        raise UsageError(
            f"{table.source}: {form.blocks} has {len(blocks)} entries; {input_tokens} tokens in blocks of "
            f"{block_tokens} make {wanted} (block_tokens says how large they are)"
        )
    return tuple(blocks)
