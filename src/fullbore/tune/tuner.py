"""Examine and time the kernels that a model could use, one record at a time.

What the table already holds of the present code is not measured again, so that a run that was interrupted
goes on where it stopped.
"""

import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any

import torch

from fullbore.hardware.ceiling import Ceiling, Probes
from fullbore.ops.code import kernel_code
from fullbore.ops.contract import Job, Kernel, Shape, packed_bytes
from fullbore.ops.demand import Workload, step_shape, subject
from fullbore.ops.operators import OPERATORS
from fullbore.ops.registry import Registry
from fullbore.ops.times import Record, Seen, Subject, Times, Timing, Verdict
from fullbore.scenario.mix import Mix
from fullbore.tune.gate import examine
from fullbore.tune.pinning import pinned
from fullbore.tune.points import Inputs, Mode, Point, points, timed_sizes
from fullbore.tune.timing import Clock, Effort, Spread, compare, copies_needed, rotating

MOST_COPIES = 256  # of one matrix; beyond that packing takes longer than timing

Progress = Callable[[int, int, str], None]  # points done, points in all, what is next


@dataclass(frozen=True)
class Bench:
    """What measuring needs of the machine, so that tests can bring their own."""

    probes: Probes
    cache_bytes: int  # of the last level
    most_bytes: int  # of drawn weights
    clock: Clock = time.perf_counter
    now: Callable[[], float] = time.time


@dataclass
class Tuner:
    """``keep``: takes each record as it is made. ``only_choices``: leave out jobs with one able kernel."""

    registry: Registry
    work: Workload
    mix: Mix
    mode: Mode
    bench: Bench
    times: Times
    keep: Callable[[Iterable[Record]], None]
    only_choices: bool = False
    progress: Progress = field(default=lambda done, total, next: None)

    def run(self) -> Times:
        """Measure what is missing; the table with it."""
        jobs = [(job, able) for job in self.work.jobs if (able := self._able(job))]
        plan = [(job, able, points(job, self.mix, self.mode, self.work.sizes)) for job, able in jobs]
        total = sum(1 + len(at) for _, _, at in plan)
        left = [self._missing(job, able, at) for job, able, at in plan]
        if any(left):
            effort = self._effort(sum(left))
            done = 0
            for job, able, at in plan:
                self.progress(done, total, job.operator)
                passed = self._gate(job, able)
                for number, _ in enumerate(self._time(job, passed, at, effort), 1):
                    self.progress(done + number, total, job.operator)
                done += 1 + len(at)
        self.progress(total, total, "")
        return self.times

    def _able(self, job: Job) -> list[type[Kernel]]:
        able = []
        for entry in self.registry.candidates(job.operator):
            try:
                kernel = entry.load()
            except ImportError:
                continue
            if not kernel.unsupported(job):
                able.append(kernel)
        return able if len(able) > 1 or not self.only_choices else []

    def _effort(self, missing: int) -> Effort:
        effort = self.mode.effort
        return Effort(min(effort.seconds, self.mode.total_s / max(1, missing)), effort.least, effort.most)

    def _ceiling(self) -> Ceiling:
        ceiling = self.bench.probes.measure()
        self._keep([Seen(self.bench.now(), ceiling.read, tuple(sorted(ceiling.flops.items())))])
        return ceiling

    def _gate(self, job: Job, kernels: list[type[Kernel]]) -> list[type[Kernel]]:
        """Those that passed, now or before."""
        fresh = [kernel for kernel in kernels if self._verdict(job, kernel) is None]
        if fresh:
            self._keep(examine(job, fresh, self.work.sizes, now=self.bench.now).values())
        return [kernel for kernel in kernels if (seen := self._verdict(job, kernel)) and seen.passed]

    def _verdict(self, job: Job, kernel: type[Kernel]) -> Verdict | None:
        here = Subject.of(job, subject(job, self.work.sizes))
        return self.times.verdict(here, kernel.name, kernel_code(kernel))

    def _missing(self, job: Job, kernels: list[type[Kernel]], at: tuple[Point, ...]) -> int:
        """Examinations and points that are still to be made."""
        verdicts = [self._verdict(job, kernel) for kernel in kernels]
        passed = [
            kernel for kernel, seen in zip(kernels, verdicts, strict=True) if seen is None or seen.passed
        ]
        fixed = timed_sizes(self.work, job, self.bench.most_bytes)
        untimed = sum(not self._timed(job, fixed, passed, point) for point in at) if passed else 0
        return untimed + (None in verdicts)

    def _timed(self, job: Job, fixed: Shape, kernels: list[type[Kernel]], point: Point) -> bool:
        here = Subject.of(job, fixed)
        return all(
            any(
                (known.tokens, known.context) == (point.tokens, point.context)
                and known.repeats >= self.mode.effort.least
                for known in self.times.ladder(here, kernel.name, kernel_code(kernel))
            )
            for kernel in kernels
        )

    def _time(
        self, job: Job, kernels: list[type[Kernel]], at: tuple[Point, ...], effort: Effort
    ) -> Iterator[None]:
        """Time all of ``kernels`` in turns at each point where one of them lacks a time."""
        fixed = timed_sizes(self.work, job, self.bench.most_bytes)
        here, uses = Subject.of(job, fixed), sum(n for group, n in self.work.groups.items() if job in group)
        inputs: Inputs | None = None
        packs: list[list[Any]] = []
        for point in at:
            if kernels and not self._timed(job, fixed, kernels, point):
                if inputs is None:
                    ceiling = self._ceiling()
                    inputs = Inputs(job, fixed)
                    packs = [self._copies(kernel(job.dtype), inputs.weights) for kernel in kernels]
                spreads = self._compare(job, kernels, packs, inputs, point, uses, effort)
                self._keep(
                    self._timing(here, kernel, point, spread, packed_bytes(pack[0]), fixed, ceiling)
                    for kernel, spread, pack in zip(kernels, spreads, packs, strict=True)
                )
            yield

    def _compare(
        self,
        job: Job,
        kernels: list[type[Kernel]],
        packs: list[list[Any]],
        inputs: Inputs,
        point: Point,
        uses: int,
        effort: Effort,
    ) -> list[Spread]:
        drawn = inputs.at(point, uses, self.bench.cache_bytes)
        calls = [
            rotating(kernel(job.dtype).run, copies, drawn)
            for kernel, copies in zip(kernels, packs, strict=True)
        ]
        with torch.inference_mode():
            for call in calls:
                call()  # pools of threads are made by a first call, and must be there to be pinned
            with pinned():
                return compare(calls, effort, self.bench.clock)

    def _copies(self, kernel: Kernel, weights: tuple[Any, ...]) -> list[Any]:
        first = kernel.pack(*weights)
        wanted = copies_needed(packed_bytes(first), self.work.bytes, self.bench.cache_bytes, MOST_COPIES)
        return [first, *(kernel.pack(*weights) for _ in range(wanted - 1))]

    def _timing(
        self,
        here: Subject,
        kernel: type[Kernel],
        point: Point,
        spread: Spread,
        packed: int,
        fixed: Shape,
        ceiling: Ceiling,
    ) -> Timing:
        operator = OPERATORS[here.operator]
        cost = operator.cost(
            step_shape(operator, fixed, point.tokens, point.context), here.format, here.dtype
        )
        return Timing(
            here, kernel.name, kernel_code(kernel), point.tokens, point.context, spread.repeats,
            self.bench.now(), spread.median_us, spread.low_us, spread.high_us,
            ceiling.floor_us(cost.flops, cost.bytes, here.dtype),
            ceiling.bound(cost.flops, cost.bytes, here.dtype), packed,
        )  # fmt: skip

    def _keep(self, records: Iterable[Record]) -> None:
        made = list(records)
        self.times = self.times.merged(made)
        self.keep(made)
