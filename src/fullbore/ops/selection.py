"""Which kernel does which job: a table made once at load, and why it came out so.

The network binds its weights through a ``Selection`` and calls what it gets; nothing else in the project
knows which kernel runs. With one kernel for a job there is nothing to choose; where there are several,
``select`` takes measured times, and without them the order of the registry decides and the table says so.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

from fullbore.errors import FullboreError
from fullbore.ops.contract import Job, Kernel
from fullbore.ops.operators import OPERATORS
from fullbore.ops.registry import Registry

Times = Mapping[tuple[Job, str], float]  # (job, kernel name) -> microseconds, of kernels found correct


@dataclass(frozen=True)
class Loser:
    """A kernel that was not chosen, and why."""

    kernel: str
    reasons: tuple[str, ...]
    time_us: float | None = None


@dataclass(frozen=True)
class Choice:
    """The kernel of one job. ``measured`` is false where the choice rests on registry order alone."""

    job: Job
    kernel: Kernel
    why: str
    measured: bool = False
    time_us: float | None = None
    losers: tuple[Loser, ...] = ()


@dataclass(frozen=True)
class Bound:
    """A kernel with its packed weights: what the network calls."""

    kernel: Kernel
    packed: Any

    def __call__(self, *inputs: Any) -> Any:
        return self.kernel.run(self.packed, *inputs)


@dataclass(frozen=True)
class Selection:
    """The frozen table job -> choice, for one device and one compute type."""

    device: str
    dtype: str
    choices: Mapping[Job, Choice]

    def bind(self, operators: Sequence[str], *weights: Any) -> tuple[Bound, ...]:
        """The chosen kernel of each operator with these weights, packed once for each layout among them."""
        packed: dict[str, Any] = {}
        bound = []
        for name in operators:
            job = Job.of(OPERATORS[name], weights, self.dtype, self.device)
            if job not in self.choices:
                raise FullboreError(f"no kernel was selected for {describe(job)}; select it before binding")
            kernel = self.choices[job].kernel
            if kernel.layout not in packed:
                packed[kernel.layout] = kernel.pack(*weights)
            bound.append(Bound(kernel, packed[kernel.layout]))
        return tuple(bound)


def describe(job: Job) -> str:
    """A job in words: ``linear (in 256, out 512; fp8_block weights, float32, cpu)``."""
    sizes = ", ".join(f"{name} {size}" for name, size in job.shape) or "any shape"
    return f"{job.operator} ({sizes}; {job.format} weights, {job.dtype}, {job.device})"


def select(
    jobs: Iterable[Job], registry: Registry, device: str, dtype: str, times: Times = MappingProxyType({})
) -> Selection:
    """Choose a kernel for every job: the fastest measured, else the first that can do it.

    Raises FullboreError, with every candidate's reasons, where no kernel can do a job.
    """
    choices = {job: _choose(job, registry, times) for job in dict.fromkeys(jobs)}
    return Selection(device, dtype, MappingProxyType(choices))


def _choose(job: Job, registry: Registry, times: Times) -> Choice:
    able: list[type[Kernel]] = []
    losers: list[Loser] = []
    for entry in registry.candidates(job.operator):
        try:
            kernel = entry.load()
        except ImportError as error:
            losers.append(Loser(entry.name, (f"cannot be imported: {error}",)))
            continue
        reasons = kernel.unsupported(job)
        if reasons:
            losers.append(Loser(entry.name, tuple(reasons)))
        else:
            able.append(kernel)
    if not able:
        told = "; ".join(f"{loser.kernel}: {', '.join(loser.reasons)}" for loser in losers)
        raise FullboreError(f"no kernel can do {describe(job)}: {told or 'none is registered'}")

    measured = {kernel.name: times[job, kernel.name] for kernel in able if (job, kernel.name) in times}
    winner = min(able, key=lambda kernel: measured.get(kernel.name, float("inf")))  # ties: registry order
    best = measured.get(winner.name)
    for kernel in able:
        if kernel is not winner:
            time = measured.get(kernel.name)
            reason = (
                "not measured" if time is None or best is None else f"{time / best:.2f}x the winner's time"
            )
            losers.append(Loser(kernel.name, (reason,), time))
    if len(able) == 1:
        why = "the only kernel that can do this" if losers else "the only candidate"
    else:
        why = (
            "not measured: first in the registry" if best is None else f"fastest of {len(measured)} measured"
        )
    return Choice(job, winner(job.dtype), why, best is not None, best, tuple(losers))
