"""What a step asks of each operator: how many tokens, and how much context.

A kernel is chosen by a job, which knows the weights alone. To draw inputs, and to say what they cost, more
must be known: sizes that only the model's config states (how many experts a token goes to), and the step.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from fullbore.ops.contract import Job, Operator, Shape
from fullbore.ops.operators import OPERATORS
from fullbore.scenario.mix import Mix, StepShape

LADDER = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512)  # token counts that are timed; buckets end at them
PAGE = 16  # tokens a page, as served unless told otherwise

_TOKENS = ("tokens", "rows")
_CONTEXT = ("context", "first")


@dataclass(frozen=True)
class Workload:
    """What a model asks of its kernels.

    groups: jobs that share one set of weights, with how often such a set occurs in the model.
    sizes: what draws need beyond a job (``k``, ``heads``, ...), by the names that operators use.
    heads: jobs that see only the rows whose logits are wanted.
    bytes: of all weights as stored, which says how cold a single matrix is when it is read.
    """

    groups: Mapping[tuple[Job, ...], int]
    sizes: Shape = field(default_factory=dict)
    heads: frozenset[Job] = frozenset()
    bytes: int = 0

    @property
    def jobs(self) -> tuple[Job, ...]:
        """Every job once, in the order of the network."""
        return tuple(dict.fromkeys(job for group in self.groups for job in group))

    @property
    def calls(self) -> int:
        """Of operators, in one pass through the network."""
        return max(1, sum(uses * len(group) for group, uses in self.groups.items()))

    @property
    def device(self) -> str:
        """What kernels are to run on."""
        return next(job.device for job in self.jobs)


@dataclass(frozen=True)
class Call:
    """``tokens`` rows (of ``context`` keys or after ``context`` tokens), ``weight`` times a step."""

    tokens: int
    context: int
    weight: float


_NONE = Call(0, 0, 0.0)


def subject(job: Job, sizes: Shape) -> Shape:
    """All sizes of a job's inputs but those that a step decides; where nothing states one, the first of the
    operator's own example shapes does."""
    example = OPERATORS[job.operator].shapes[0]
    shape = {name: size for name, size in example.items() if name not in _TOKENS + _CONTEXT}
    shape |= {name: size for name, size in sizes.items() if name in shape} | dict(job.shape)
    return shape | {"page": sizes.get("page", PAGE)} if attends(job) else shape


def step_shape(operator: Operator, fixed: Shape, tokens: int, context: int) -> Shape:
    """``fixed`` (of ``subject``) with a step's counts under the operator's own names."""
    names = operator.shapes[0]
    counts = {name: tokens for name in _TOKENS if name in names}
    return {**fixed, **counts, **{name: context for name in _CONTEXT if name in names}}


def attends(job: Job) -> bool:
    """Whether a call's time depends on a context."""
    return any(name in OPERATORS[job.operator].shapes[0] for name in _CONTEXT)


def usual_context(job: Job, mix: Mix) -> int:
    """The context of the call that steps of ``mix`` make most; 0 where the operator knows none."""
    return max(calls(job, mix), key=lambda call: call.weight, default=_NONE).context


def calls(job: Job, mix: Mix, head: bool = False) -> Sequence[Call]:
    """What one set of this job's weights is asked in a step of ``mix``."""
    return [call for step in mix for call in _calls(OPERATORS[job.operator].shapes[0], step, head)]


def _calls(names: Shape, step: StepShape, head: bool) -> Sequence[Call]:
    if "first" in names:
        return [Call(tokens, first, step.weight) for tokens, first in step.chunks]
    if "context" in names:
        return [Call(step.decodes, step.context, step.weight)] if step.decodes else []
    tokens = step.sampled if head else step.tokens
    return [Call(tokens, 0, step.weight)] if tokens else []
