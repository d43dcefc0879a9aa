"""What to type next: the chosen way looked at closely, simulated, measured, and the two compared."""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from fullbore.plan.demand import Demand


@dataclass(frozen=True)
class NextStep:
    """A command, and what it is for."""

    purpose: str
    command: str


def next_steps(way: str, asked: Sequence[tuple[str, Demand, int]], points: bool = True) -> Iterator[NextStep]:
    """way: of ``Trial.flags``. asked: of each scenario the words after ``--scenario`` ("": lengths alone),
    what was asked, and how many are in flight. points: whether ``plan point`` knows the server."""
    for _, demand, limit in asked if points else ():
        lengths = f"--input {demand.input_tokens} --output {demand.output_tokens}"
        ranged = f" --length-range {demand.length_range:g}" if demand.length_range < 1 else ""
        yield NextStep(
            f"{demand.name}, closely",
            f"fullbore plan point {way} {lengths}{ranged} --concurrency {limit}",
        )
    for words, demand, limit in asked:
        yield NextStep(
            f"{demand.name}, simulated request by request",
            f"fullbore plan simulate {way} {_asked(words, demand, limit)} "
            f"--save {demand.name}-simulated.json",
        )
    url = "http://SERVER:PORT" if points else "http://127.0.0.1:8000"
    for words, demand, limit in asked:
        measured, simulated = f"{demand.name}-measured.json", f"{demand.name}-simulated.json"
        yield NextStep(
            f"{demand.name}, measured on the server once it runs, and put beside the simulation",
            f"fullbore bench {url} {_asked(words, demand, limit)} --json {measured}\n"
            f"fullbore bench compare {measured} {simulated} --html {demand.name}.html",
        )


def _asked(words: str, demand: Demand, limit: int) -> str:
    """A plan's lengths are counted down from the scenario's, where they vary at all."""
    flags = [f"--scenario {words}"] if words else []
    if not words or demand.length_range < 1:
        flags += [
            f"--input {_lengths(demand.input_tokens, demand.length_range)}",
            f"--output {_lengths(demand.output_tokens, demand.length_range)}",
        ]
    return " ".join([*flags, f"--concurrency {limit}"])


def _lengths(most: int, length_range: float) -> str:
    return str(most) if length_range == 1 else f"{math.ceil(most * length_range)}-{most}"
