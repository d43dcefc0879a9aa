"""What to type next: the chosen way looked at closely, simulated, measured, and the two compared."""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from fullbore.plan.demand import Demand
from fullbore.steptime.model import Setting
from fullbore.steptime.profiles import Policy


@dataclass(frozen=True)
class NextStep:
    """A command, and what it is for."""

    purpose: str
    command: str


def next_steps(way: str, asked: Sequence[tuple[str, Demand, int]]) -> Iterator[NextStep]:
    """way: of ``way_flags``. asked: of each scenario the words after ``--scenario`` ("": lengths alone), what
    was asked of it, and how many are in flight."""
    for _, demand, limit in asked:
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
    for words, demand, limit in asked:
        measured, simulated = f"{demand.name}-measured.json", f"{demand.name}-simulated.json"
        yield NextStep(
            f"{demand.name}, measured on the server once it runs, and put beside the simulation",
            f"fullbore bench http://SERVER:PORT {_asked(words, demand, limit)} --json {measured}\n"
            f"fullbore bench compare {measured} {simulated} --html {demand.name}.html",
        )


def way_flags(
    setting: Setting, engine: str, epoch: str, policy: Policy, used_share: float, acceptance: float
) -> str:
    """The flags of ``plan point`` and ``plan simulate`` that say how a model is run."""
    flags = (
        f"--server {setting.server.name} --engine {engine}{f'@{epoch}' if epoch else ''} "
        f"--layout {setting.layout} --weights {setting.recipe.name} --kv {setting.cache} "
        f"--chunk {policy.chunk_tokens} --running {policy.most_running} --memory-fraction {used_share:g}"
    )
    return flags + (f" --mtp {setting.drafts} --acceptance {acceptance:g}" if setting.drafts else "")


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
