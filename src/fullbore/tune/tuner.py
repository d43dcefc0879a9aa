"""Examine and time the kernels that a model could use, one record at a time.

What the table already holds of the present code is not measured again, so that a run that was interrupted
goes on where it stopped.
"""

import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field, replace
from typing import Any

import torch

from fullbore.hardware.ceiling import Ceiling, Probes
from fullbore.ops.code import kernel_code
from fullbore.ops.contract import Job, Kernel, Shape, packed_bytes
from fullbore.ops.demand import Workload, step_shape, subject
from fullbore.ops.operators import OPERATORS
from fullbore.ops.registry import Registry
from fullbore.ops.times import Begun, Record, Seen, Subject, Times, Timing, Verdict
from fullbore.scenario.mix import Mix
from fullbore.tune.gate import Gate
from fullbore.tune.graphs import Stream
from fullbore.tune.points import Inputs, Mode, Point, points, timed_sizes
from fullbore.tune.timing import ClockTimer, Effort, Rotation, Spread, Timer, compare, copies_needed

MOST_COPIES = 256  # of one matrix; beyond that packing takes longer than timing

Progress = Callable[[int, int, str], None]  # points done, points in all, what is next


@dataclass(frozen=True)
class Bench:
    """What measuring needs of the machine, so that tests can bring their own.

    cache_bytes: of the last level. most_bytes: of drawn weights. place: torch's name of where inputs lie.
    stream: of a device whose decode steps are replayed from graphs, so that kernels must go into one.
    """

    probes: Probes
    cache_bytes: int
    most_bytes: int
    timer: Timer = field(default_factory=ClockTimer)
    now: Callable[[], float] = time.time
    place: str = "cpu"
    stream: Stream | None = None


@dataclass
class Tuner:
    """``keep``: takes each record as it is made. ``only_choices``: leave out jobs with one able kernel."""

    registry: Registry
    work: Workload
    mix: Mix
    mode: Mode
    bench: Bench
    times: Times
    keep: Callable[[Iterable[Record]], object]
    only_choices: bool = False
    since: float = 0.0  # times that were made before do not count (seconds since 1970)
    progress: Progress = field(default=lambda done, total, next: None)

    def run(self) -> Times:
        """Measure what is missing; the table with it."""
        jobs = [(job, able) for job in self.work.jobs if (able := self._able(job))]
        plan = [(job, able, points(job, self.mix, self.mode, self.work.sizes)) for job, able in jobs]
        total = sum(1 + len(at) for _, _, at in plan)
        left = [self._missing(job, able, at) for job, able, at in plan]
        if any(left):
            begin, clock = self.bench.timer.now(), self.bench.timer.now
            done, gate = 0, Gate(self.work.sizes, self.bench.now, self.bench.place, self.bench.stream)
            for number, (job, able, at) in enumerate(plan):
                share = max(0.0, self.mode.total_s - (clock() - begin)) / (len(plan) - number)
                until = clock() + share
                self.progress(done, total, job.operator)
                passed = self._examine(gate, job, able)
                for number, _ in enumerate(self._time(job, passed, at, until), 1):
                    self.progress(done + number, total, job.operator)
                done += 1 + len(at)
        self.progress(total, total, "")
        return self.times

    def _able(self, job: Job) -> list[type[Kernel]]:
        able = []
        for entry in self.registry.on(job.device).candidates(job.operator):
            try:
                kernel = entry.load()
            except ImportError:
                continue
            if not kernel.unsupported(job):
                able.append(kernel)
        return able if len(able) > 1 or not self.only_choices else []

    def _ceiling(self) -> Ceiling:
        ceiling = self.bench.probes.measure()
        self._keep([Seen(self.bench.now(), ceiling.read, tuple(sorted(ceiling.flops.items())))])
        return ceiling

    def _examine(self, gate: Gate, job: Job, kernels: list[type[Kernel]]) -> list[type[Kernel]]:
        """Those that passed, now or before."""
        for kernel in kernels:
            if not self._settled(job, kernel):
                self._examine_one(gate, job, kernel)
        return [kernel for kernel in kernels if (seen := self._verdict(job, kernel)) and seen.passed]

    def _examine_one(self, gate: Gate, job: Job, kernel: type[Kernel]) -> None:
        """With a note before it, so that a kernel that ends this process is known the next time."""
        here, code = Subject.of(job, subject(job, self.work.sizes)), kernel_code(kernel)
        self._keep([Begun(here, kernel.name, code, self.bench.now(), True)])
        try:
            self._keep([gate.examine(job, kernel)])
        except BaseException:  # Ctrl-C, say: no fault of the kernel's
            self._keep([Begun(here, kernel.name, code, self.bench.now(), False)])
            raise

    def _settled(self, job: Job, kernel: type[Kernel]) -> bool:
        here, code = Subject.of(job, subject(job, self.work.sizes)), kernel_code(kernel)
        ended = self.times.ended_a_process(here, kernel.name, code) and not self.mode.tries_again
        return ended or self.times.verdict(here, kernel.name, code) is not None

    def _verdict(self, job: Job, kernel: type[Kernel]) -> Verdict | None:
        here = Subject.of(job, subject(job, self.work.sizes))
        return self.times.verdict(here, kernel.name, kernel_code(kernel))

    def _missing(self, job: Job, kernels: list[type[Kernel]], at: tuple[Point, ...]) -> int:
        """Examinations and points that are still to be made."""
        unsettled = [kernel for kernel in kernels if not self._settled(job, kernel)]
        passed = [k for k in kernels if k in unsettled or ((seen := self._verdict(job, k)) and seen.passed)]
        fixed = timed_sizes(self.work, job, self.bench.most_bytes)
        untimed = sum(not self._timed(job, fixed, passed, point) for point in at) if passed else 0
        return untimed + bool(unsettled)

    def _timed(self, job: Job, fixed: Shape, kernels: list[type[Kernel]], point: Point) -> bool:
        """Whether each has been read often enough here, or is hopeless beside the best."""
        here, effort = Subject.of(job, fixed), self.mode.effort
        known = [
            timing
            for kernel in kernels
            for timing in self.times.ladder(here, kernel.name, kernel_code(kernel))
            if (timing.tokens, timing.context) == (point.tokens, point.context) and timing.when >= self.since
        ]
        best = min((timing.median_us for timing in known), default=0.0)
        return len(known) == len(kernels) and all(
            timing.repeats >= effort.least or timing.median_us > effort.hopeless * best for timing in known
        )

    def _time(
        self, job: Job, kernels: list[type[Kernel]], at: tuple[Point, ...], until: float
    ) -> Iterator[None]:
        """Time all of ``kernels`` in turns at each point where one of them lacks a time; at one at least, and
        at others while there is time (the next run goes on)."""
        fixed = timed_sizes(self.work, job, self.bench.most_bytes)
        here, uses = Subject.of(job, fixed), sum(n for group, n in self.work.groups.items() if job in group)
        inputs: Inputs | None = None
        packs: list[list[Any]] = []
        for place, point in enumerate(at):
            late = inputs is not None and self.bench.timer.now() > until
            if kernels and not late and not self._timed(job, fixed, kernels, point):
                left = max(0.0, until - self.bench.timer.now()) / (len(at) - place)
                effort = replace(self.mode.effort, seconds=min(self.mode.effort.seconds, left))
                if inputs is None:
                    ceiling = self._ceiling()
                    inputs = Inputs(job, fixed, self.bench.place)
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
            Rotation(kernel(job.dtype).run, copies, drawn)
            for kernel, copies in zip(kernels, packs, strict=True)
        ]
        with torch.inference_mode():
            for call in calls:
                call()  # pools of threads are made by a first call, and must be there to be pinned
            with self.bench.timer.steady():
                return compare(calls, effort, self.bench.timer)

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
        arithmetic = operator.arithmetic(here.format, here.dtype)
        return Timing(
            here, kernel.name, kernel_code(kernel), point.tokens, point.context, spread.repeats,
            self.bench.now(), spread.median_us, spread.low_us, spread.high_us,
            ceiling.floor_us(cost.flops, cost.bytes, arithmetic),
            ceiling.bound(cost.flops, cost.bytes, arithmetic), packed,
        )  # fmt: skip

    def _keep(self, records: Iterable[Record]) -> None:
        made = list(records)
        self.times = self.times.merged(made)
        self.keep(made)
