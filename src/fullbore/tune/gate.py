"""Numerics before speed: a kernel is timed only when its numbers agree with the operator's reference.

Every case of the operator's draw is tried at the operator's own small and ragged shapes and at the job's
shape with few tokens. A kernel that raises, or whose error exceeds the operator's limit once, is refused.
"""

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Generator

from fullbore.ops.code import kernel_code
from fullbore.ops.contract import DTYPES, Case, Job, Kernel, Operator, Shape
from fullbore.ops.demand import step_shape, subject
from fullbore.ops.operators import OPERATORS
from fullbore.ops.times import WORST, Subject, Verdict

TOKENS = (1, 3, 17)  # at the job's shape: alone, an odd few, more than a tile of rows
CONTEXT = 70
MOST_EXPERTS = 8  # are drawn at the job's shape: an expert is as good as another
MOST_VALUES = 1 << 26  # of weights; above, only the plain case is drawn at the job's shape
_SEED = 20


@dataclass(frozen=True)
class Trial:
    """Inputs and what must come out, with the words to name them by."""

    name: str
    drawn: Case
    expected: Any


def trials(job: Job, sizes: Shape) -> Iterator[Trial]:
    """Everything that a kernel of this job must get right."""
    operator = OPERATORS[job.operator]
    generator = Generator().manual_seed(_SEED)
    for shape in operator.shapes:
        yield from _at(operator, job, shape, operator.cases, generator)
    fixed = _fewer_experts(subject(job, sizes))
    large = _values(fixed) > MOST_VALUES
    for tokens in TOKENS[-1:] if large else TOKENS:
        shape = step_shape(operator, fixed, tokens, CONTEXT)
        yield from _at(operator, job, shape, operator.cases[:1] if large else operator.cases, generator)


def examine(
    job: Job,
    kernels: Sequence[type[Kernel]],
    sizes: Shape,
    tried: Iterator[Trial] | None = None,
    now: Callable[[], float] = time.time,
) -> Mapping[str, Verdict]:
    """The verdict on each kernel, by name. ``tried``: other trials than ``trials``, for tests."""
    operator = OPERATORS[job.operator]
    made = {kernel.name: kernel(job.dtype) for kernel in kernels}
    worst = {name: _Worst(operator.limit(job.format, job.dtype)) for name in made}
    for trial in tried if tried is not None else trials(job, sizes):
        here = Job.of(operator, trial.drawn.weights, job.dtype, job.device)
        for name, kernel in made.items():
            if not worst[name].failure and not kernel.unsupported(here):
                worst[name].take(trial, kernel, operator)
    about = Subject.of(job, subject(job, sizes))
    return {
        kernel.name: worst[kernel.name].verdict(about, kernel.name, kernel_code(kernel), now())
        for kernel in kernels
    }


class _Worst:
    """The largest error of one kernel so far, or what it raised."""

    def __init__(self, limit: float) -> None:
        self.limit, self.error, self.case, self.failure = limit, -1.0, "nothing was tried", ""

    def take(self, trial: Trial, kernel: Kernel, operator: Operator) -> None:
        try:
            with torch.inference_mode():
                packed = kernel.pack(*trial.drawn.weights)
                output = kernel.run(packed, *trial.drawn.inputs)
                error = min(operator.error(output, trial.expected), WORST)
        except Exception as raised:  # noqa: BLE001 - whatever it is, it is the kernel's end and not ours
            self.case, self.failure = trial.name, f"{type(raised).__name__}: {raised}"[:500]
            return
        if not error <= self.error:  # a nan too
            self.error, self.case = error if error == error else WORST, trial.name

    def verdict(self, about: Subject, kernel: str, code: str, when: float) -> Verdict:
        passed = not self.failure and 0 <= self.error <= self.limit
        return Verdict(about, kernel, code, when, passed, self.error, self.limit, self.case, self.failure)


def _at(
    operator: Operator, job: Job, shape: Shape, cases: Sequence[str], generator: Generator
) -> Iterator[Trial]:
    for case in cases:
        drawn = operator.draw(shape, case, job.format, DTYPES[job.dtype], generator)
        sizes = ", ".join(f"{name} {size}" for name, size in shape.items())
        with torch.inference_mode():
            expected = operator.reference(drawn.weights, *drawn.inputs)
        yield Trial(f"case {case} at {sizes}", drawn, expected)


def _fewer_experts(shape: Shape) -> Shape:
    """``k`` of them at least; routing, which has groups of experts, keeps them all."""
    if "experts" not in shape or "n_group" in shape:
        return shape
    return {**shape, "experts": min(shape["experts"], max(MOST_EXPERTS, shape.get("k", 1)))}


def _values(shape: Shape) -> int:
    """About how many numbers the weights have: the largest product of two sizes, times the experts."""
    sizes = sorted((size for name, size in shape.items() if name != "experts"), reverse=True) or [1]
    return sizes[0] * (sizes[1] if len(sizes) > 1 else 1) * shape.get("experts", 1)
