"""Who could do a job, and who not and why."""

from dataclasses import dataclass
from typing import Protocol

from fullbore.errors import FullboreError
from fullbore.ops.contract import Job, Kernel
from fullbore.ops.registry import NotInstalled, Registry


@dataclass(frozen=True)
class Loser:
    """A kernel that was not chosen, and why.

    able: it could have done the job. by_design: it was never meant to (another device or format).
    """

    kernel: str
    reasons: tuple[str, ...]
    time_us: float | None = None
    able: bool = True
    by_design: bool = False


@dataclass(frozen=True)
class Expected:
    """What a kernel costs in one step of the mix, for one set of weights.

    us: in all. by_bucket: the same apart by token counts (see ``demand.LADDER``; the last is open).
    source: measured, interpolated or assumed, the least of its parts.
    """

    us: float
    by_bucket: tuple[float, ...]
    source: str = "measured"


class Evidence(Protocol):
    """What is known of kernels."""

    def refusal(self, job: Job, kernel: str) -> str:
        """Why the numerics gate refused it; "" where it passed or was never examined."""
        ...

    def expected(self, job: Job, kernel: str) -> Expected | None:
        """Its cost, None where nothing was measured."""
        ...

    def packed_bytes(self, job: Job, kernel: str) -> int:
        """Of one set of weights in its layout; 0 where that is not known."""
        ...

    def once(self, job: Job, kernel: str) -> float | None:
        """The cost by times of other code of this kernel: only ever told, never chosen by."""
        ...


class NoEvidence:
    """Nothing was measured."""

    def refusal(self, job: Job, kernel: str) -> str:
        return ""

    def expected(self, job: Job, kernel: str) -> Expected | None:
        return None

    def packed_bytes(self, job: Job, kernel: str) -> int:
        return 0

    def once(self, job: Job, kernel: str) -> float | None:
        return None


@dataclass(frozen=True)
class Candidates:
    """``able``: in the registry's order."""

    job: Job
    able: tuple[type[Kernel], ...]
    losers: tuple[Loser, ...]


def consider(job: Job, registry: Registry, evidence: Evidence) -> Candidates:
    """Every kernel of the job's operator. FullboreError, with every reason, where none can do it."""
    able: list[type[Kernel]] = []
    losers: list[Loser] = []
    for entry in registry.candidates(job.operator):
        if job.device not in entry.devices:
            reason = f"runs on {', '.join(entry.devices)}, not on {job.device}"
            losers.append(Loser(entry.name, (reason,), able=False, by_design=True))
            continue
        try:
            kernel = entry.load()
        except ImportError as error:
            once = evidence.once(job, entry.name)
            # Who measured it once had it; to anybody else it is no loss.
            spare = isinstance(error, NotInstalled) and once is None
            reason = str(error) if isinstance(error, NotInstalled) else f"cannot be imported: {error}"
            losers.append(Loser(entry.name, (reason,), once, able=False, by_design=spare))
            continue
        reasons = kernel.unsupported(job)
        if not reasons and (refusal := evidence.refusal(job, entry.name)):
            expected = evidence.expected(job, entry.name)
            losers.append(Loser(entry.name, (refusal,), expected.us if expected else None, able=False))
        elif reasons:
            once, by_design = evidence.once(job, entry.name), bool(kernel.unintended(job))
            losers.append(Loser(entry.name, tuple(reasons), once, able=False, by_design=by_design))
        else:
            able.append(kernel)
    if not able:
        told = "; ".join(f"{loser.kernel}: {', '.join(loser.reasons)}" for loser in losers)
        raise FullboreError(f"no kernel can do {describe(job)}: {told or 'none is registered'}")
    return Candidates(job, tuple(able), tuple(losers))


def describe(job: Job) -> str:
    """A job in words: ``linear (in 256, out 512; fp8_block weights, float32, cpu)``."""
    sizes = ", ".join(f"{name} {size}" for name, size in job.shape) or "any shape"
    return f"{job.operator} ({sizes}; {job.format} weights, {job.dtype}, {job.device})"
