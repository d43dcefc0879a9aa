"""Which kernel does which job: a table made once at load, and why it came out so.

The network binds its weights through a ``Selection`` and calls what it gets; nothing else in the project
knows which kernel runs. ``select`` takes what was measured; without it the order of the registry decides and
the table says so.

One kernel does a job at every token count, unless ``by_tokens`` is asked for: then each bucket of token
counts has its own. That is faster where kernels cross, but the bits of a token then depend on how many others
shared its step, so that a greedy answer may differ from one run to the next. Hence it is an option.
"""

from bisect import bisect_left
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

from fullbore.errors import FullboreError
from fullbore.ops.candidates import Candidates, Evidence, Loser, NoEvidence, consider, describe
from fullbore.ops.contract import Job, Kernel
from fullbore.ops.demand import LADDER
from fullbore.ops.joint import ONE_HAND, Groups, choose, expected_of
from fullbore.ops.operators import OPERATORS
from fullbore.ops.registry import Registry


@dataclass(frozen=True)
class Choice:
    """The kernel of one job. ``source``: measured, interpolated or assumed; "" where the choice rests on
    registry order alone. ``time_us``: in a step of the mix that it was chosen for.

    ``kernels``: one, or one for each bucket of ``demand.LADDER`` (the last is open).
    """

    job: Job
    kernels: tuple[Kernel, ...]
    why: str
    source: str = ""
    time_us: float | None = None
    losers: tuple[Loser, ...] = ()

    @property
    def kernel(self) -> Kernel:
        """The one, or that of the largest bucket."""
        return self.kernels[-1]

    def at(self, tokens: int) -> Kernel:
        """The one that computes so many tokens."""
        return self.kernels[bisect_left(LADDER, tokens, 0, len(self.kernels) - 1)]

    @property
    def measured(self) -> bool:
        return bool(self.source)

    @property
    def names(self) -> str:
        """``cpu``, or ``cpu to 16 tokens, torch beyond``."""
        if len(self.kernels) == 1:
            return self.kernel.name
        runs = [(self.kernels[0].name, 0)]
        for bucket, kernel in enumerate(self.kernels):
            runs[-1:] = (
                [(kernel.name, bucket)] if kernel.name == runs[-1][0] else [runs[-1], (kernel.name, bucket)]
            )
        told = [f"{name} to {LADDER[bucket]}" for name, bucket in runs[:-1]]
        return f"{', '.join(told)} tokens, {runs[-1][0]} beyond"


@dataclass(frozen=True)
class Bound:
    """A kernel with its packed weights: what the network calls."""

    kernel: Kernel
    packed: Any

    def __call__(self, *inputs: Any) -> Any:
        return self.kernel.run(self.packed, *inputs)

    @property
    def packs(self) -> tuple[Any, ...]:
        return (self.packed,)


@dataclass(frozen=True)
class BoundByTokens:
    """Several, told apart by the number of tokens (rows of the first input)."""

    bounds: tuple[Bound, ...]  # of each bucket of LADDER

    def __call__(self, *inputs: Any) -> Any:
        return self.bounds[bisect_left(LADDER, len(inputs[0]), 0, len(LADDER) - 1)](*inputs)

    @property
    def packs(self) -> tuple[Any, ...]:
        return tuple(bound.packed for bound in self.bounds)


@dataclass(frozen=True)
class Selection:
    """The frozen table job -> choice, for one device and one compute type."""

    device: str
    dtype: str
    choices: Mapping[Job, Choice]

    def bind(self, operators: Sequence[str], *weights: Any) -> tuple[Bound | BoundByTokens, ...]:
        """The chosen kernel of each operator with these weights, packed once for each layout among them."""
        packed: dict[str, Any] = {}
        bound: list[Bound | BoundByTokens] = []
        for name in operators:
            job = Job.of(OPERATORS[name], weights, self.dtype, self.device)
            if job not in self.choices:
                raise FullboreError(f"no kernel was selected for {describe(job)}; select it before binding")
            kernels = self.choices[job].kernels
            for kernel in kernels:
                if kernel.layout not in packed:
                    packed[kernel.layout] = kernel.pack(*weights)
            bounds = tuple(Bound(kernel, packed[kernel.layout]) for kernel in kernels)
            bound.append(bounds[0] if len(bounds) == 1 else BoundByTokens(bounds))
        return tuple(bound)


def select(
    groups: Groups,
    registry: Registry,
    device: str,
    dtype: str,
    evidence: Evidence = NoEvidence(),  # noqa: B008 - it holds nothing
    by_tokens: bool = False,
    memory_bytes: int | None = None,
) -> Selection:
    """Choose the kernels of every job, jobs that share weights jointly.

    groups: jobs of one set of weights -> how many such sets the model has.
    memory_bytes: what all packed weights may take.
    Raises FullboreError, with every candidate's reasons, where no kernel can do a job; CapacityError where no
    layouts fit.
    """
    jobs = dict.fromkeys(job for group in groups for job in group)
    considered = {job: consider(job, registry, evidence) for job in jobs}
    chosen = choose(groups, considered, evidence, by_tokens, memory_bytes)
    choices = {job: _explain(considered[job], chosen[job], evidence, dtype) for job in jobs}
    return Selection(device, dtype, MappingProxyType(choices))


def _explain(found: Candidates, kernels: tuple[type[Kernel], ...], evidence: Evidence, dtype: str) -> Choice:
    job = found.job
    expected = expected_of(job, kernels, evidence)
    best = expected.us if expected else None
    losers, known = list(found.losers), len({*kernels}) if expected else 0
    for kernel in found.able:
        if kernel not in kernels:
            theirs = evidence.expected(job, kernel.name)
            known += theirs is not None
            losers.append(_loser(kernel.name, best, theirs.us if theirs else None, job))
    if len(found.able) == 1:
        why = "the only kernel that can do this" if losers else "the only candidate"
    elif expected is None:
        why = "not measured: first in the registry"
    elif any(loser.able and loser.time_us is not None and loser.time_us < expected.us for loser in losers):
        why = f"part of the best choice of {known} measured"
    else:
        why = f"fastest of {known} measured"
    made = {kernel: kernel(dtype) for kernel in dict.fromkeys(kernels)}
    instances = tuple(made[kernel] for kernel in kernels)
    return Choice(job, instances, why, expected.source if expected else "", best, tuple(losers))


def _loser(name: str, best: float | None, time: float | None, job: Job) -> Loser:
    if time is None or best is None:
        return Loser(name, ("not measured",), time)
    ratio = time / best if best else 1.0
    reason = f"{ratio:.2f}x the winner's time"
    if ratio < 1:
        reason += (
            ": prefill and decode must come from one kernel" if job.operator in ONE_HAND
            else ": its layout would cost more elsewhere, or not fit"
        )  # fmt: skip
    return Loser(name, (reason,), time)
