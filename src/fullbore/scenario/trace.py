"""Replay of recorded requests: their lengths, their times, and which parts of prompts they shared."""

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from fractions import Fraction
from typing import Any

from fullbore.errors import UsageError
from fullbore.scenario.fields import Table
from fullbore.scenario.length_values import read_lengths
from fullbore.scenario.lengths import Choice, Lengths
from fullbore.scenario.prompt import Request, Segment, Session
from fullbore.scenario.trace_file import FORMATS, MOST_BLOCK, Row, read_rows

MOONCAKE_BLOCK = 512
MOST_ROWS = 100_000_000


@dataclass(frozen=True)
class Trace:
    """A file of recorded requests, and what was found in it.

    The summary makes a report readable where the file is not. ``rows()`` reads the file itself, and refuses
    one that has changed.
    """

    file: str
    format: str
    block_tokens: int
    limit: int | None  # only the first so many requests
    digest: str
    requests: int
    span_s: float | None  # from the first request to the last; None where no times were recorded
    repeated_tokens: float  # of a mean prompt: blocks at its beginning that an earlier prompt began with too
    input: Lengths  # before any scaling, as is ``output``
    output: Lengths
    known: Sequence[Row] | None = field(default=None, compare=False, repr=False)  # where just read

    @classmethod
    def open(
        cls, file: str, format: str, *, block_tokens: int = MOONCAKE_BLOCK, limit: int | None = None
    ) -> "Trace":
        """Read it once. UsageError for a file or line that cannot be used."""
        rows, digest = read_rows(file, format, block_tokens, limit)
        return cls(
            file=file,
            format=format,
            block_tokens=block_tokens,
            limit=limit,
            digest=digest,
            requests=len(rows),
            span_s=rows[-1].time_s,
            repeated_tokens=_repeated_tokens(rows, block_tokens),
            input=_histogram(row.input_tokens for row in rows),
            output=_histogram(row.output_tokens for row in rows),
            known=rows,
        )

    def rows(self) -> Sequence[Row]:
        """Every request in order of time. UsageError when the file is gone or has changed."""
        if self.known is not None:
            return self.known
        rows, digest = read_rows(self.file, self.format, self.block_tokens, self.limit)
        if digest != self.digest:
            raise UsageError(
                f"the trace {self.file} has changed: its digest is {digest}, recorded was {self.digest}"
            )
        return rows

    def sessions(
        self, seed: str, count: int, scale: Fraction, speed: float | None, starts_s: Iterator[float] | None
    ) -> Iterator[Session]:
        """``count`` requests in the trace's order, with their own times at ``speed``, ``starts_s``, or none.

        With its own times a trace ends where it ends. Else it begins again when it is used up, with other
        content.
        """
        rows = self.rows()
        for number in range(count if speed is None else min(count, len(rows))):
            again, place = divmod(number, len(rows))
            row = rows[place]
            start_s = next(starts_s) if starts_s else None
            if speed is not None and row.time_s is not None:
                start_s = row.time_s / speed
            prompt = tuple(self._segments(row, f"{seed}/pass {again}", place, scale))
            request = Request(number, prompt, max(2 if scale != 1 else 1, round(row.output_tokens * scale)))
            yield Session(number, (request,), start_s)

    def _segments(self, row: Row, seed: str, place: int, scale: Fraction) -> Iterator[Segment]:
        rest = max(1, round(row.input_tokens * scale))
        if not row.blocks:
            yield Segment(f"{seed}/request {place}", rest)
            return
        block_tokens = max(1, round(self.block_tokens * scale))
        for number, block in enumerate(row.blocks, start=1):
            # Rounding of scaled lengths is left to the last block.
            tokens = rest if number == len(row.blocks) else min(rest, block_tokens)
            if tokens:
                yield Segment(f"{seed}/block {block}", tokens)
            rest -= tokens

    def describe(self) -> str:
        """``23608 requests of FILE (mooncake), over 3600 s, 41 % of prompt tokens seen before``."""
        over = f", over {self.span_s:.6g} s" if self.span_s is not None else ""
        repeated = f", {self.repeated_tokens / self.input.mean:.0%} of prompt tokens seen before"
        return (
            f"{self.requests} requests of {self.file} ({self.format})"
            f"{over}{repeated if self.repeated_tokens else ''}"
        )

    def as_table(self) -> dict[str, Any]:
        """As in a scenario file, with ``recorded``: what was found in the trace."""
        table: dict[str, Any] = {
            "file": self.file,
            "format": self.format,
            "block_tokens": self.block_tokens,
            "recorded": {
                "digest": self.digest,
                "requests": self.requests,
                "repeated_tokens": self.repeated_tokens,
                "input_tokens": self.input.as_table(),
                "output_tokens": self.output.as_table(),
            },
        }
        if self.limit is not None:
            table["limit"] = self.limit
        if self.span_s is not None:
            table["recorded"]["span_seconds"] = self.span_s
        return table


def read_trace(table: Table) -> Trace:
    """``[trace]``: opens the file, unless what was ``recorded`` of it is in the table."""
    table.refuse_others(("file", "format", "block_tokens", "limit", "recorded"))
    kind = table.one_of("format", FORMATS)
    block_tokens = table.whole("block_tokens", 1, MOST_BLOCK, default=MOONCAKE_BLOCK)
    limit = table.whole("limit", 1, MOST_ROWS) if "limit" in table else None
    file = table.file("file", "the name of a file")
    if "recorded" not in table:
        return Trace.open(file, kind, block_tokens=block_tokens, limit=limit)
    found = table.table("recorded")
    found.refuse_others(
        ("digest", "requests", "span_seconds", "repeated_tokens", "input_tokens", "output_tokens")
    )
    return Trace(
        file=file,
        format=kind,
        block_tokens=block_tokens,
        limit=limit,
        digest=found.text("digest", "the digest of the file"),
        requests=found.whole("requests", 1, MOST_ROWS),
        span_s=found.number_from("span_seconds", "seconds") if "span_seconds" in found else None,
        repeated_tokens=found.number_from("repeated_tokens", "tokens"),
        input=read_lengths(found, "input_tokens"),
        output=read_lengths(found, "output_tokens"),
    )


def _histogram(lengths: Iterator[int]) -> Choice:
    counts = sorted(Counter(lengths).items())
    return Choice(tuple(value for value, _ in counts), tuple(float(count) for _, count in counts))


def _repeated_tokens(rows: Sequence[Row], block_tokens: int) -> float:
    """Tokens of a mean prompt that a prefix cache without end would hold: whole blocks, from the first on."""
    seen: set[int] = set()
    repeated = 0
    for row in rows:
        old = next((place for place, block in enumerate(row.blocks) if block not in seen), len(row.blocks))
        repeated += min(old * block_tokens, row.input_tokens)
        seen.update(row.blocks)
    return repeated / len(rows)
