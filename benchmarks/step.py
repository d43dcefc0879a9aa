"""What a step of a model costs, operator by operator: ``python -m benchmarks.step MODEL``.

The model is loaded as it is served and run by the engine's runner, with a stop-watch before every kernel.
What a step takes beyond them is the host's share: Python, torch, making tensors and keeping tokens.
"""

import argparse
import os
import statistics
import sys
import time
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from itertools import cycle
from pathlib import Path
from typing import Any

from rich import box
from rich.table import Table

# Before torch is imported: waiting threads must sleep, as in the engine.
os.environ.setdefault("OMP_WAIT_POLICY", "passive")

import torch

from fullbore.engine.messages import Sampling
from fullbore.engine.runner import Runner
from fullbore.engine.step import Row, Started, Step
from fullbore.errors import FullboreError, UsageError
from fullbore.hardware.ceiling import Ceiling
from fullbore.hardware.limits import usable_cores
from fullbore.kernels.probes import probes
from fullbore.model.load import in_registry_order, load_model
from fullbore.ops.contract import Kernel
from fullbore.ops.demand import Workload, calls, step_shape, subject
from fullbore.ops.operators import OPERATORS
from fullbore.ops.registry import Registry
from fullbore.ops.selection import Selection
from fullbore.scenario.mix import StepShape
from fullbore.screen import console
from fullbore.tune.pinning import pinned

PAGE = 64
VARIANTS = 4  # of a step take turns: other tokens choose other experts


@dataclass
class Watch:
    """A selector (see ``load_model``) that times every kernel; ``work``: what was asked."""

    on: bool = False
    seconds: dict[str, float] = field(default_factory=lambda: defaultdict(float))
    work: Workload = field(default_factory=lambda: Workload({}))

    def __call__(self, work: Workload, registry: Registry, dtype: str) -> Selection:
        self.work, chosen = work, in_registry_order(work, registry, dtype)
        watched: Any = {
            job: replace(choice, kernels=tuple(_Watched(each, self) for each in choice.kernels))  # type: ignore[misc]
            for job, choice in chosen.choices.items()
        }
        return replace(chosen, choices=watched)


class _Watched:
    """What a kernel is, timed."""

    def __init__(self, kernel: Kernel, watch: Watch) -> None:
        self._kernel, self._watch = kernel, watch

    def __getattr__(self, name: str) -> Any:
        return getattr(self._kernel, name)

    def run(self, packed: Any, *inputs: Any) -> Any:
        if not self._watch.on:
            return self._kernel.run(packed, *inputs)
        begin = time.perf_counter()
        output = self._kernel.run(packed, *inputs)
        self._watch.seconds[self._kernel.operator] += time.perf_counter() - begin
        return output


def floors(work: Workload, shape: StepShape, ceiling: Ceiling) -> dict[str, float]:
    """Milliseconds that each operator must take in a step of ``shape`` at these ceilings, weights cold."""
    found: dict[str, float] = defaultdict(float)
    for group, uses in work.groups.items():
        for job in group:
            for call in calls(job, (shape,), job in work.heads):
                operator = OPERATORS[job.operator]
                sized = step_shape(operator, subject(job, work.sizes), call.tokens, call.context)
                cost = operator.cost(sized, job.format, job.dtype)
                arithmetic = operator.arithmetic(job.format, job.dtype)
                found[job.operator] += uses * ceiling.floor_us(cost.flops, cost.bytes, arithmetic) / 1e3
    return found


def steps(runner: Runner, shape: StepShape, vocab: int) -> list[Step]:
    """Steps of ``shape`` that can be run again and again, on pages that hold the last one's context."""
    generator, made, numbers = torch.Generator().manual_seed(5), list[Step](), iter(range(1_000_000))
    firsts = [shape.context - 1] * shape.decodes + [first for _, first in shape.chunks]
    counts = [1] * shape.decodes + [count for count, _ in shape.chunks]
    wide = -(-max(map(sum, zip(firsts, counts, strict=True))) // PAGE)
    for _ in range(VARIANTS):
        rows = []
        for place, (first, count) in enumerate(zip(firsts, counts, strict=True)):
            number, pages = next(numbers), tuple(range(place * wide, (place + 1) * wide))
            prompt = torch.randint(vocab, (first + count,), generator=generator).tolist()
            runner.launch(Step(0, (), (Started(number, tuple(prompt), Sampling(temperature=0.0)),)))
            if first:
                runner.launch(Step(0, (Row(number, 0, first, pages, False),)))
            rows.append(Row(number, first, count, pages, True))
        made.append(Step(0, tuple(rows)))
    return made


@dataclass(frozen=True)
class Figures:
    """Milliseconds. ``taken``: whole steps, unwatched. ``watched``: the mean step of the ``operators``."""

    taken: Sequence[float]
    watched: float
    operators: dict[str, float]

    @property
    def host(self) -> float:
        return self.watched - sum(self.operators.values())


def measure(runner: Runner, work: Sequence[Step], watch: Watch, seconds: float) -> Figures:
    """Each step with watches off and on in turns, for ``seconds``."""
    taken: dict[bool, list[float]] = {False: [], True: []}
    turns = cycle(work)
    with pinned():
        runner.launch(next(turns))
        watch.seconds.clear()
        end = time.perf_counter() + seconds
        while len(taken[True]) < 2 * len(work) or time.perf_counter() < end:
            step = next(turns)
            for watch.on in (False, True):
                begin = time.perf_counter()
                runner.launch(step).sampled()
                taken[watch.on].append(1e3 * (time.perf_counter() - begin))
        watch.on = False
    count = len(taken[True])
    operators = {name: 1e3 * spent / count for name, spent in watch.seconds.items()}
    return Figures(taken[False], statistics.mean(taken[True]), operators)


def table(shape: StepShape, found: Figures, floor: dict[str, float], ceiling: Ceiling) -> Table:
    """Operators by time, then the host and the step."""
    prompts = ", ".join(str(count) for count, _ in shape.chunks) or "none"
    title = (
        f"{shape.decodes} decodes at context {shape.context}, prompts: {prompts}; probed: "
        f"{ceiling.describe()}"
    )
    made = Table("operator", box=box.SIMPLE_HEAD, title=title, title_justify="left")
    for name in ("ms", "share", "floor ms", "of floor"):
        made.add_column(name, justify="right")
    for name, ms in sorted(found.operators.items(), key=lambda entry: -entry[1]):
        made.add_row(
            name, f"{ms:.3f}", f"{ms / found.watched:.1%}", f"{floor[name]:.3f}", f"{floor[name] / ms:.0%}"
        )
    made.add_row("host", f"{found.host:.3f}", f"{found.host / found.watched:.1%}", end_section=True)
    whole, median = sum(floor[name] for name in found.operators), statistics.median(found.taken)
    made.add_row("step, median", f"{median:.3f}", "", f"{whole:.3f}", f"{whole / median:.0%}")
    made.add_row("step, least", f"{min(found.taken):.3f}")
    return made


def parser() -> argparse.ArgumentParser:
    made = argparse.ArgumentParser(prog="python -m benchmarks.step", description=__doc__, allow_abbrev=False)
    add = made.add_argument
    add("model", type=Path, help="a checkpoint's folder")
    add("--steps", default="1,16,0+128", help="decodes, or decodes+prompt (default: 1,16,0+128)")
    add("--context", type=int, default=200, metavar="N", help="of each decode (default: 200)")
    add("--seconds", type=float, default=3.0, metavar="S", help="for each step (default: 3)")
    add("--threads", type=int, default=usable_cores(), metavar="N", help="(default: every core)")
    return made


def shape_of(word: str, context: int) -> StepShape:
    """``16`` or ``15+128``. UsageError for anything else."""
    decodes, _, prompt = word.partition("+")
    if not decodes.isdecimal() or not (prompt or "0").isdecimal() or not int(decodes) + int(prompt or "0"):
        raise UsageError(f"--steps {word!r} is no step: expected decodes, or decodes+tokens, such as 15+128")
    chunks = ((int(prompt), 0),) if int(prompt or "0") else ()
    return StepShape(int(decodes), context, chunks, int(decodes) + len(chunks), 1.0)


def main(argv: Sequence[str] | None = None) -> int:
    """0 done, else the exit code of the error that is told."""
    args = parser().parse_args(argv)
    try:
        shapes = [shape_of(word, args.context) for word in args.steps.split(",")]
        torch.set_num_threads(args.threads)
        watch, machine = Watch(), probes()
        model = load_model(args.model, selector=watch)
        for shape in shapes:
            most = max((shape.context, *(count for count, _ in shape.chunks)))
            runner = Runner(model, shape.sampled * -(-most // PAGE), PAGE, ())
            work, ceiling = steps(runner, shape, model.config.vocab_size), machine.measure()
            found = measure(runner, work, watch, args.seconds)
            console(100, 100).print(table(shape, found, floors(watch.work, shape, ceiling), ceiling))
    except FullboreError as error:
        console(80, 110, stderr=True).print(f"step: error: {error}", markup=False)
        return error.exit_code
    return 0


if __name__ == "__main__":
    sys.exit(main())
