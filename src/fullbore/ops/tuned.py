"""From the stored table to a selection: what the engine loads with, and what ``tune`` and ``why`` report."""

from collections.abc import Iterator
from dataclasses import dataclass

from fullbore.hardware.ceiling import Ceiling
from fullbore.ops.candidates import describe
from fullbore.ops.code import codes
from fullbore.ops.demand import Workload
from fullbore.ops.estimate import Estimator
from fullbore.ops.evidence import Measured
from fullbore.ops.registry import Registry
from fullbore.ops.selection import Choice, Selection, select
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
        device = next(job.device for job in work.jobs)
        evidence = self.evidence(work, registry)
        return select(work.groups, registry, device, dtype, evidence, self.by_tokens, self.memory_bytes)

    def evidence(self, work: Workload, registry: Registry) -> Measured:
        """What is known of every kernel for this mix."""
        seen = self.times.ceiling
        ceiling = Ceiling(seen.read, dict(seen.flops)) if seen else _NO_CEILING
        estimator = Estimator(self.times, codes(registry), ceiling, work.sizes)
        return Measured(estimator, self.mix, work.heads)


def shortfalls(selection: Selection) -> Iterator[str]:
    """What a person who waits for answers should know: kernels that could not be used here, with how much
    slower the ones in their place are, and choices that rest on no measurement. One line a fact, however many
    jobs it concerns."""
    told: dict[str, list[Choice]] = {}
    for choice in selection.choices.values():
        for fact in _facts(choice):
            told.setdefault(fact, []).append(choice)
    for fact, choices in told.items():
        more = f" and {len(choices) - 1} more shapes" if len(choices) > 1 else ""
        yield f"{describe(choices[0].job)}{more}: {fact}"


def _facts(choice: Choice) -> Iterator[str]:
    for loser in choice.losers:
        if not loser.able and not loser.by_design:
            reasons, how_much = "; ".join(loser.reasons), _how_much(choice.time_us, loser.time_us)
            yield f"kernel {loser.kernel} {reasons}; {choice.names} computes instead, {how_much}"
    if not choice.measured and any(loser.able for loser in choice.losers):
        others = ", ".join(loser.kernel for loser in choice.losers if loser.able)
        yield f"kernel {choice.names} was not compared with {others} (run: fullbore tune MODEL)"


def _how_much(ours_us: float | None, theirs_us: float | None) -> str:
    if not ours_us or not theirs_us:
        return "how much slower was not measured"
    ratio = ours_us / theirs_us
    return f"{ratio:.3g}x slower" if ratio > 1.005 else "which is no slower"
