"""What limits a plan: the split of its step, the floor, and what each change would be worth."""

from collections.abc import Mapping
from dataclasses import dataclass

from fullbore.plan.demand import Demand
from fullbore.plan.point import WAITING
from fullbore.plan.trial import Reached, Trial
from fullbore.steptime.step import Step


@dataclass(frozen=True)
class Change:
    """One thing changed. tpot_ms: at the plan's concurrency. limit: the most in flight inside the limits."""

    name: str
    tpot_ms: float
    limit: int


@dataclass(frozen=True)
class Advice:
    """Of one demand at its limit. parts_ms: what the mean TPOT is the sum of. headroom: of each limit, the
    share that is left."""

    demand: Demand
    reached: Reached
    parts_ms: Mapping[str, float]
    floor_ms: float
    headroom: Mapping[str, float]
    changes: tuple[Change, ...]

    @property
    def limited_by(self) -> str:
        """The largest part of the TPOT."""
        return max(self.parts_ms, key=lambda kind: self.parts_ms[kind])


def advise(trial: Trial, demand: Demand, limit: int) -> Advice:
    """For ``trial`` with ``limit`` in flight (at least 1)."""
    reached = trial.at(demand, limit)
    decodes = max(1, round(reached.decodes))
    step = Step(decodes, decodes * reached.context, 0, 0.0, decodes)
    parts = {
        kind: seconds * 1e3 / trial.gained
        for kind, seconds in trial.model.of(step).terms_s.items()
        if seconds
    }
    parts[WAITING] = max(0.0, reached.tpot_ms - sum(parts.values()))
    limits = demand.limits
    return Advice(
        demand,
        reached,
        parts,
        trial.model.floor_s(step) * 1e3 / trial.gained,
        {"TPOT": 1 - reached.tpot_ms / limits.tpot_ms, "TTFT": 1 - reached.ttft_ms / limits.ttft_ms},
        tuple(
            Change(name, other.at(demand, limit).tpot_ms, other.limit(demand))
            for name, other in trial.changes(demand, limit)
        ),
    )
