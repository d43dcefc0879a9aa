"""From the stored table to a selection: what the engine loads with, and what ``tune`` and ``why`` report."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from fullbore.hardware.ceiling import Ceiling
from fullbore.ops.code import codes
from fullbore.ops.demand import Workload
from fullbore.ops.estimate import Estimator
from fullbore.ops.evidence import Measured
from fullbore.ops.registry import Registry
from fullbore.ops.selection import Selection, select
from fullbore.ops.times import Times
from fullbore.scenario.mix import Mix

# Only ratios of floors matter where no ceiling was measured, and there no time was either.
_NO_CEILING = Ceiling(1e10, {"float32": 1e11, "bfloat16": 1e11})


@dataclass(frozen=True)
class Tuned:
    """Chooses by ``times`` for the steps of ``mix``; called by ``model.load`` with what the model needs.

    by_tokens: kernels may differ by the number of tokens. memory_bytes: for all packed weights.
    """

    times: Times
    mix: Mix
    by_tokens: bool = False
    memory_bytes: int | None = None

    def __call__(self, work: Workload, registry: Registry, dtype: str) -> Selection:
        evidence = self.evidence(work, registry)
        return select(work.groups, registry, work.device, dtype, evidence, self.by_tokens, self.memory_bytes)

    def evidence(self, work: Workload, registry: Registry) -> Measured:
        """What is known of every kernel for this mix."""
        seen = self.times.ceiling
        ceiling = Ceiling(seen.read, dict(seen.flops)) if seen else _NO_CEILING
        estimator = Estimator(self.times, codes(registry.on(work.device)), ceiling, work.sizes)
        return Measured(estimator, self.mix, work.heads)


def shortfalls(selection: Selection) -> Iterator[str]:
    """What a person who waits for answers should know: kernels that could not be used here, with how much
    slower the ones in their place are, and choices that rest on no measurement. A line for each cause."""
    causes: dict[str, dict[str, list[float | None]]] = {}
    untimed: dict[str, None] = {}
    for job, choice in selection.choices.items():
        for loser in choice.losers:
            if not loser.able and not loser.by_design:
                cause = f"kernel {loser.kernel} {'; '.join(loser.reasons)}"
                instead = f"{job.operator} by {choice.names}"
                ratio = _ratio(choice.time_us, loser.time_us)
                causes.setdefault(cause, {}).setdefault(instead, []).append(ratio)
        if not choice.measured and any(loser.able for loser in choice.losers):
            untimed[f"{job.operator} by {choice.names}"] = None
    for cause, substitutes in causes.items():
        told = ", ".join(f"{what} ({_slower(ratios)})" for what, ratios in substitutes.items())
        yield f"{cause}; computed instead: {told}"
    if untimed:
        yield f"never compared with other kernels: {', '.join(untimed)} (run: fullbore tune MODEL)"


def _ratio(ours_us: float | None, theirs_us: float | None) -> float | None:
    return ours_us / theirs_us if ours_us and theirs_us else None


def _slower(ratios: Sequence[float | None]) -> str:
    known = sorted(ratio for ratio in ratios if ratio is not None)
    if not known:
        return "how much slower was not measured here; docs/benchmarks.md has figures of another machine"
    low, high = f"{known[0]:.3g}x", f"{known[-1]:.3g}x"
    return f"{low} its time" if low == high else f"{low} to {high} its time"
