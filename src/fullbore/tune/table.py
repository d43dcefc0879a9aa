"""What was chosen, as a table that a person can read."""

from rich.table import Table
from rich.text import Text

from fullbore.ops.contract import Job
from fullbore.ops.demand import Workload
from fullbore.ops.estimate import Estimate
from fullbore.ops.evidence import Measured
from fullbore.ops.selection import Choice, Selection

SHOWN = (1, 8, 64, 512)  # token counts
MARKS = {"measured": "", "interpolated": "~", "assumed": "?"}


def choices_table(selection: Selection, work: Workload, evidence: Measured) -> Table:
    """A row for each job: its kernel, its times at ``SHOWN`` tokens and their share of the ceiling."""
    table = Table(box=None, pad_edge=False, header_style="bold")
    for title in ("operator", "shape", "weights", "sets", "kernel"):
        table.add_column(title, no_wrap=title != "shape")
    for tokens in SHOWN:
        table.add_column(f"{tokens} tok", justify="right", no_wrap=True)
    table.add_column("instead of", no_wrap=False)
    for job, choice in selection.choices.items():
        sets = sum(count for group, count in work.groups.items() if job in group)
        cells = (cell(evidence, job, choice, tokens) for tokens in SHOWN)
        table.add_row(job.operator, sizes(job), job.format, str(sets), choice.names, *cells, _losers(choice))
    return table


def sizes(job: Job) -> str:
    """``in 256, out 512``."""
    return ", ".join(f"{name} {size}" for name, size in job.shape) or "any"


def cell(evidence: Measured, job: Job, choice: Choice, tokens: int) -> Text:
    """``12.3 us 45%``: the time and the floor's share of it; dim where it was not measured at this count."""
    context = evidence.usual_context(job)
    known = evidence.estimator.of(job, choice.at(tokens).name, tokens, context)
    if known is None:
        return Text("-", style="dim")
    text = f"{duration(known)} {percent(known.floor_us / known.us)}"
    return Text(text, style="" if known.source == "measured" else "dim")


def duration(known: Estimate) -> str:
    """``12.3 us``, ``4.56 ms``; with ~ where interpolated and ? where assumed."""
    value, unit = (known.us / 1000, "ms") if known.us >= 1000 else (known.us, "us")
    return f"{MARKS[known.source]}{value:.3g} {unit}"


def percent(share: float) -> str:
    """Of the ceiling; above it only where bytes came from a cache."""
    return f"{100 * share:3.0f}%"


def _losers(choice: Choice) -> str:
    told = []
    for loser in choice.losers:
        if loser.by_design:
            continue
        reason = loser.reasons[0]
        told.append(f"{loser.kernel} ({'refused' if reason.startswith('refused') else reason})")
    return ", ".join(told)
