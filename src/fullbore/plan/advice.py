"""What limits a plan: the split of its step, the floor, and what each change would be worth."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace

from fullbore.errors import CapacityError
from fullbore.parallel.layout import possible_layouts
from fullbore.plan.demand import Demand
from fullbore.plan.memory import check_memory
from fullbore.plan.point import WAITING
from fullbore.plan.trial import Reached, Trial
from fullbore.steptime.factors import Factors
from fullbore.steptime.model import Setting
from fullbore.steptime.step import Step

_TB_S = 1e12
_FINE_TILE = 16  # rows; the least that the matrix units of all catalogue devices take whole


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
            for name, other in _changes(trial, demand, limit)
        ),
    )


def _changes(trial: Trial, demand: Demand, limit: int) -> Iterator[tuple[str, Trial]]:
    setting, factors = trial.setting, trial.profile.factors
    device = setting.server.device
    faster = replace(
        device,
        bandwidth_bytes_s=replace(device.bandwidth_bytes_s, value=device.bandwidth_bytes_s.value + _TB_S),
    )
    server = replace(setting.server, device=faster)
    yield "1 TB/s more memory bandwidth", _with(trial, replace(setting, server=server), factors)
    if setting.cache != "fp8":
        yield "FP8 KV cache", _with(trial, replace(setting, cache="fp8"), factors)
    if setting.layout.devices > 1:
        quick = replace(factors, hop_us=factors.hop_us / 2, link=factors.link * 2)
        yield "exchanges twice as fast", _with(trial, setting, quick)
    if factors.tile > _FINE_TILE:
        fine = replace(factors, tile=_FINE_TILE)
        yield f"expert tiles of {_FINE_TILE} rows instead of {factors.tile}", _with(trial, setting, fine)
    yield "half the launches' time", _with(trial, setting, replace(factors, layer_us=factors.layer_us / 2))
    others = list(_other_layouts(trial, demand))
    if others:
        best = min(others, key=lambda other: other.at(demand, limit).tpot_ms)
        yield f"layout {best.setting.layout}", best


def _other_layouts(trial: Trial, demand: Demand) -> Iterator[Trial]:
    setting = trial.setting
    for layout in possible_layouts(setting.config, setting.server.count):
        if layout != setting.layout:
            changed = replace(setting, layout=layout)
            try:
                held = check_memory(changed, None, demand.most_tokens)
            except CapacityError:
                continue
            yield Trial(changed, trial.profile, held, trial.acceptance)


def _with(trial: Trial, setting: Setting, factors: Factors) -> Trial:
    """``trial`` with something changed that takes no more memory."""
    held = trial.held
    if setting.cache != trial.setting.cache:
        held = check_memory(setting, held.used_share, 1)
    return Trial(setting, replace(trial.profile, factors=factors), held, trial.acceptance)
