"""What no implementation on this machine can exceed: ``python -m benchmarks.bound MODEL``.

A closed loop of equal requests at the roofline: every step of all decodes reads the weights and keys that
it needs once or does its operations at the peak, whichever takes longer, operator by operator; prompts are
computed together; nothing waits. ``--read`` and ``--bfloat16`` put other ceilings in place of the probed.
"""

import argparse
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from rich import box
from rich.table import Table

from benchmarks.step import floors
from fullbore.errors import FullboreError
from fullbore.hardware.ceiling import Ceiling
from fullbore.kernels.probes import probes
from fullbore.model.checkpoint import Checkpoint
from fullbore.model.config import load_config
from fullbore.model.convert import Converted
from fullbore.model.weights import RECIPES, STORED, recipe
from fullbore.model.workload import workload
from fullbore.ops.demand import Workload
from fullbore.scenario.mix import StepShape
from fullbore.screen import console

CONTEXTS = 8  # of a growing answer are looked at
PROMPTS = 4  # in one step: more of them change nothing, arithmetic binds


@dataclass(frozen=True)
class Bound:
    """Milliseconds of a decode step and of a prompt, and the output tokens per second that follow."""

    decode_ms: float
    prompt_ms: float
    output_tok_s: float


def bound(work: Workload, inputs: int, outputs: int, concurrency: int, ceiling: Ceiling) -> Bound:
    """``concurrency`` requests of ``inputs`` and ``outputs`` tokens from first to last, at the roofline."""

    def least_ms(shape: StepShape) -> float:
        return sum(floors(work, shape, ceiling).values())

    contexts = [inputs + (2 * place + 1) * outputs // (2 * CONTEXTS) for place in range(CONTEXTS)]
    decode = sum(least_ms(StepShape(concurrency, each, (), concurrency, 1.0)) for each in contexts) / CONTEXTS
    together = min(concurrency, PROMPTS)
    prompt = least_ms(StepShape(0, 0, ((inputs, 0),) * together, together, 1.0)) / together
    taken_s = ((outputs - 1) * decode + concurrency * prompt) / 1e3
    return Bound(decode, prompt, concurrency * outputs / taken_s)


def rows(args: argparse.Namespace, ceiling: Ceiling) -> Iterator[tuple[str, int, Bound]]:
    checkpoint = Checkpoint.open(args.model, load_config(args.model))
    for name in args.weights.split(","):
        source = Converted(checkpoint, checkpoint.specs, recipe(name))
        work = workload(checkpoint.config, source, "bfloat16")
        for concurrency in map(int, args.concurrency.split(",")):
            yield name, concurrency, bound(work, args.input, args.output, concurrency, ceiling)


def main(argv: Sequence[str] | None = None) -> int:
    made = argparse.ArgumentParser(prog="python -m benchmarks.bound", description=__doc__, allow_abbrev=False)
    add = made.add_argument
    add("model", type=Path, help="a checkpoint's folder")
    add("--weights", default=f"{STORED},int8,int4,bf16", help=f"comma separated, of {', '.join(RECIPES)}")
    add("--concurrency", default="1,16,64", help="comma separated (default: 1,16,64)")
    add("--input", type=int, default=128, help="prompt tokens (default: 128)")
    add("--output", type=int, default=128, help="tokens of an answer (default: 128)")
    add("--read", type=float, help="GB/s instead of the probed")
    add("--bfloat16", type=float, help="GFLOP/s instead of the probed")
    add("--int8", type=float, help="GFLOP/s instead of the probed")
    args = made.parse_args(argv)
    try:
        found = probes().measure()
        told = {kind: 1e9 * peak for kind in ("bfloat16", "int8") if (peak := getattr(args, kind))}
        ceiling = Ceiling(1e9 * args.read if args.read else found.read, {**found.flops, **told})
        title = f"{args.input} in, {args.output} out; the machine {ceiling.describe()}"
        table = Table(box=box.SIMPLE_HEAD, title=title, title_justify="left")
        for name in ("weights", "in flight", "decode ms", "prompt ms", "output tok/s"):
            table.add_column(name, justify="right")
        for name, concurrency, least in rows(args, ceiling):
            times = f"{least.decode_ms:.1f}", f"{least.prompt_ms:.0f}", f"{least.output_tok_s:.0f}"
            table.add_row(name, str(concurrency), *times)
        console(80, 100).print(table)
    except FullboreError as error:
        console(80, 110, stderr=True).print(f"bound: error: {error}", markup=False)
        return error.exit_code
    return 0


if __name__ == "__main__":
    sys.exit(main())
