"""What to type next: the chosen way looked at closely, simulated, measured, and the two compared."""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from fullbore.plan.demand import Demand
from fullbore.plan.trial import Trial


@dataclass(frozen=True)
class NextStep:
    """A command, and what it is for."""

    purpose: str
    command: str


def next_steps(trial: Trial, asked: Sequence[tuple[str, Demand, int]]) -> Iterator[NextStep]:
    """asked: of each scenario its name or file ("": none, lengths alone), what was asked of it, and how many
    are in flight."""
    for _, demand, limit in asked:
        lengths = f"--input {demand.input_tokens} --output {demand.output_tokens}"
        ranged = f" --length-range {demand.length_range:g}" if demand.length_range < 1 else ""
        yield NextStep(
            f"{demand.name}, closely",
            f"fullbore plan point {way_flags(trial)} {lengths}{ranged} --concurrency {limit}",
        )
    for name, demand, limit in asked:
        file = f"{demand.name}-simulated.json"
        yield NextStep(
            f"{demand.name}, simulated request by request",
            f"fullbore plan simulate {way_flags(trial)} {_asked(name, demand, limit)} --save {file}",
        )
    for name, demand, limit in asked:
        measured, simulated = f"{demand.name}-measured.json", f"{demand.name}-simulated.json"
        yield NextStep(
            f"{demand.name}, measured on the server once it runs, and put beside the simulation",
            f"fullbore bench http://SERVER:PORT {_asked(name, demand, limit)} --json {measured}\n"
            f"fullbore bench compare {measured} {simulated} --html {demand.name}.html",
        )


def way_flags(trial: Trial) -> str:
    """The flags that say how ``trial`` runs the model."""
    setting, policy = trial.setting, trial.profile.policy
    engine = trial.profile.engine + (f"@{trial.profile.epoch}" if trial.profile.epoch else "")
    flags = (
        f"--server {setting.server.name} --engine {engine} --layout {setting.layout} "
        f"--weights {setting.recipe.name} --kv {setting.cache} --chunk {policy.chunk_tokens} "
        f"--running {policy.most_running} --memory-fraction {trial.held.used_share:g}"
    )
    return flags + (f" --mtp {setting.drafts} --acceptance {trial.acceptance:g}" if setting.drafts else "")


def _asked(name: str, demand: Demand, limit: int) -> str:
    """A plan's lengths are counted down from the scenario's, where they vary at all."""
    words = [f"--scenario {name}"] if name else []
    if not name or demand.length_range < 1:
        words += [
            f"--input {_lengths(demand.input_tokens, demand.length_range)}",
            f"--output {_lengths(demand.output_tokens, demand.length_range)}",
        ]
    return " ".join([*words, f"--concurrency {limit}"])


def _lengths(most: int, length_range: float) -> str:
    return str(most) if length_range == 1 else f"{math.ceil(most * length_range)}-{most}"
