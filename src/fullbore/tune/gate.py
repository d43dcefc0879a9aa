"""Numerics before speed: a kernel is timed only when its numbers agree with the operator's reference.

Every case of the operator's draw is tried at the operator's own small and ragged shapes and at the job's
shape with few tokens. A kernel that raises, or whose error exceeds the operator's limit once, is refused. So
is, on a GPU, one that cannot be replayed from a graph, where decode steps come from.
"""

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from copy import copy
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Generator, Tensor

from fullbore.ops.code import kernel_code
from fullbore.ops.contract import DTYPES, Case, Job, Kernel, Operator, Shape
from fullbore.ops.demand import step_shape, subject
from fullbore.ops.operators import OPERATORS
from fullbore.ops.place import moved
from fullbore.ops.times import WORST, Subject, Verdict
from fullbore.tune.graphs import NotCaptured, Stream

TOKENS = (3, 17)  # at the job's shape: an odd few, more than a tile of rows; one alone is a case
CONTEXT = 70
MOST_EXPERTS = 8  # are drawn at the job's shape: an expert is as good as another
MOST_VALUES = 1 << 24  # of weights; above, only the plain case is drawn at the job's shape
_SEED = 20


@dataclass(frozen=True)
class Trial:
    """Inputs and what must come out, with the words to name them by."""

    name: str
    drawn: Case
    expected: Any


def example_trials(job: Job) -> Iterator[Trial]:
    """The operator's own shapes: the same for all jobs of one format and type."""
    operator = OPERATORS[job.operator]
    generator = Generator().manual_seed(_SEED)
    for shape in operator.shapes:
        for case in operator.cases:
            yield _trial(operator, job, shape, case, generator)


def own_trials(job: Job, sizes: Shape) -> Iterator[Trial]:
    """The job's own shape."""
    operator = OPERATORS[job.operator]
    generator = Generator().manual_seed(_SEED)
    fixed = _fewer_experts(subject(job, sizes))
    large = _values(fixed) > MOST_VALUES
    for tokens in TOKENS[-1:] if large else TOKENS:
        shape = step_shape(operator, fixed, tokens, CONTEXT)
        for case in operator.cases[:1] if large else operator.cases:
            if case != "one_token" or tokens == TOKENS[-1]:
                yield _trial(operator, job, shape, case, generator)


Kind = tuple[str, str, str, str]  # what of a job the operator's own shapes are drawn for


@dataclass
class Gate:
    """Examines jobs of one model. ``sizes``: of ``Workload``. ``now``: seconds since 1970. ``place``: torch's
    name of where inputs lie. ``stream``: of a device that replays decode steps from graphs."""

    sizes: Shape
    now: Callable[[], float] = time.time
    place: str = "cpu"
    stream: Stream | None = None
    _examples: dict[Kind, list[Trial]] = field(default_factory=dict)
    _seen: dict[tuple[Kind, type[Kernel]], "_Worst"] = field(default_factory=dict)
    _own: dict[Job, list[Trial]] = field(default_factory=dict)

    def examine(self, job: Job, kernel: type[Kernel]) -> Verdict:
        """The verdict on one kernel. Kernels of one job are best examined one after the other: they share the
        trials, which cost more than the kernels do."""
        kind = job.operator, job.format, job.dtype, job.device
        if (kind, kernel) not in self._seen:
            if kind not in self._examples:
                self._examples[kind] = list(example_trials(job))
            limit = OPERATORS[job.operator].limit(job.format, job.dtype, kernel.rounds)
            self._seen[kind, kernel] = self._try(job, kernel, _Worst(limit), self._examples[kind])
        if job not in self._own:
            self._own = {job: list(own_trials(job, self.sizes))}  # of one job at a time: they may be large
        worst = self._try(job, kernel, copy(self._seen[kind, kernel]), self._own[job])
        if self.stream and not worst.failure and "first" not in OPERATORS[job.operator].shapes[0]:
            worst.replay(
                self._own[job][-1], kernel(job.dtype), OPERATORS[job.operator], self.stream, self.place
            )
        about = Subject.of(job, subject(job, self.sizes))
        return worst.verdict(about, kernel.name, kernel_code(kernel), self.now())

    def _try(self, job: Job, kernel: type[Kernel], worst: "_Worst", trials: Sequence[Trial]) -> "_Worst":
        """``worst`` after each trial that the kernel can do, until it fails."""
        operator = OPERATORS[job.operator]
        made = kernel(job.dtype)
        for trial in trials:
            here = Job.of(operator, trial.drawn.weights, job.dtype, job.device)
            if not worst.failure and not kernel.unsupported(here):
                worst.take(trial, made, operator, self.place)
        return worst


class _Worst:
    """The largest error of one kernel so far, or what it raised."""

    def __init__(self, limit: float) -> None:
        self.limit, self.error, self.case, self.failure = limit, -1.0, "nothing was tried", ""

    def take(self, trial: Trial, kernel: Kernel, operator: Operator, place: str) -> None:
        with self._blamed(trial), torch.inference_mode():
            packed = kernel.pack(*trial.drawn.weights)
            output = kernel.run(packed, *moved(trial.drawn.inputs, place))
            self._compare(output, trial, operator)

    def replay(self, trial: Trial, kernel: Kernel, operator: Operator, stream: Stream, place: str) -> None:
        """What a graph makes of inputs that came after it was captured."""
        name = f"{trial.name}, replayed from a graph"
        with self._blamed(replace(trial, name=name)), torch.inference_mode():
            packed, wanted = kernel.pack(*trial.drawn.weights), moved(trial.drawn.inputs, place)
            inputs = tuple(_zeros(each) for each in wanted)
            kernel.run(packed, *inputs)
            outputs: list[Any] = []
            again = stream.capture(lambda: outputs.append(kernel.run(packed, *inputs)))
            for ours, theirs in zip(inputs, wanted, strict=True):
                if isinstance(ours, Tensor):
                    ours.copy_(theirs)
            stream.seconds(again)
            self._compare(outputs[-1], replace(trial, name=name), operator)

    @contextmanager
    def _blamed(self, trial: Trial) -> Iterator[None]:
        """Whatever is raised within is the kernel's end and not ours."""
        try:
            yield
        except NotCaptured as raised:
            self.case, self.failure = trial.name, f"{raised}; decode steps are replayed from one"
        except Exception as raised:  # noqa: BLE001
            self.case, self.failure = trial.name, f"{type(raised).__name__}: {raised}"[:500]

    def _compare(self, output: Any, trial: Trial, operator: Operator) -> None:
        error = min(operator.error(moved(output, "cpu"), trial.expected), WORST)
        if not error <= self.error:  # a nan too
            self.error, self.case = error if error == error else WORST, trial.name

    def verdict(self, about: Subject, kernel: str, code: str, when: float) -> Verdict:
        passed = not self.failure and 0 <= self.error <= self.limit
        return Verdict(about, kernel, code, when, passed, self.error, self.limit, self.case, self.failure)


def _trial(operator: Operator, job: Job, shape: Shape, case: str, generator: Generator) -> Trial:
    drawn = operator.draw(shape, case, job.format, DTYPES[job.dtype], generator)
    sizes = ", ".join(f"{name} {size}" for name, size in shape.items())
    with torch.inference_mode():
        expected = operator.reference(drawn.weights, *drawn.inputs)
    return Trial(f"case {case} at {sizes}", drawn, expected)


def _zeros(value: Any) -> Any:
    """As a graph is captured: the right shapes, and numbers that say nothing of what comes later."""
    return torch.zeros_like(value) if isinstance(value, Tensor) else value


def _fewer_experts(shape: Shape) -> Shape:
    """``k`` of them at least; routing, which has groups of experts, keeps them all."""
    if "experts" not in shape or "n_group" in shape:
        return shape
    return {**shape, "experts": min(shape["experts"], max(MOST_EXPERTS, shape.get("k", 1)))}


def _values(shape: Shape) -> int:
    """About how many numbers the weights have: the largest product of two sizes, times the experts."""
    sizes = sorted((size for name, size in shape.items() if name != "experts"), reverse=True) or [1]
    return sizes[0] * (sizes[1] if len(sizes) > 1 else 1) * shape.get("experts", 1)
