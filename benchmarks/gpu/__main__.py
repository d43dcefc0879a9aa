"""One rank of the 671B model on one GPU: ``python -m benchmarks.gpu --json gpu.json``.

Reads and multiplies are probed first; every operator of a rank is checked and timed in a graph with cold
weights, beside its floor and what SGLang and TensorRT-LLM took; then a whole step is added up, and the rank
serves. What is done is written as it comes. ``--only floors`` needs no GPU.
"""

import argparse
import gc
import json
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch

from benchmarks.gpu import serving, table
from benchmarks.gpu.operators import Bench, Point, Row, measure
from benchmarks.gpu.parts import LAYOUTS, Part, parts
from benchmarks.gpu.rank import rank_step
from fullbore.errors import FullboreError, UsageError, did_you_mean
from fullbore.hardware.accelerator import accelerators
from fullbore.hardware.catalogue import find_device as find_catalogued
from fullbore.hardware.ceiling import Ceiling
from fullbore.hardware.device import CUDA, find_device
from fullbore.kernels.catalogue import CATALOGUE
from fullbore.ops.operators import OPERATORS
from fullbore.screen import console
from fullbore.tune.device_probes import device_probes
from fullbore.tune.graphs import CudaStream, GraphTimer
from fullbore.tune.probes import probes
from fullbore.tune.timing import ClockTimer, Effort, Timer

SCHEMA = "fullbore.gpu/1"
SECTIONS = ("floors", "operators", "rank", "serving")
BUDGETS_S = {"operators": 220.0, "serving": 240.0}


@dataclass(frozen=True)
class Load:
    """``steps``: (batch, context) of whole decode steps; ``batches``: others, at the contexts of all steps.
    ``chunks``: tokens of a prompt, and before them."""

    steps: tuple[tuple[int, int], ...]
    batches: tuple[int, ...]
    chunks: tuple[tuple[int, int], ...]
    effort: Effort


FULL = Load(((158, 640), (140, 2560)), (128, 16, 32, 64, 256), ((1024, 0), (2048, 2048)), Effort(0.15, 5, 50))
SMALL = Load(((2, 40),), (), ((5, 3),), Effort(0.0, 1, 1))  # in Triton's interpreter


@dataclass
class Report:
    """What was found so far. ``meaningless``: why no time of it means anything, "" on a GPU."""

    path: Path | None
    device: dict[str, Any]
    meaningless: str
    operators: list[Row] = field(default_factory=list)
    rank: list[dict[str, Any]] = field(default_factory=list)
    serving: list[dict[str, Any]] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    def tell(self, note: str) -> None:
        self.notes.append(note)
        print(f"  {note}", file=sys.stderr)

    def write(self) -> None:
        if self.path is None:
            return
        told = {
            "schema": SCHEMA,
            "meaningless": self.meaningless,
            "device": self.device,
            "operators": [{**asdict(row), "fraction": row.fraction} for row in self.operators],
            "rank": self.rank,
            "serving": self.serving,
            "notes": self.notes,
        }
        self.path.write_text(json.dumps(told, indent=1) + "\n", encoding="utf-8")


def parser() -> argparse.ArgumentParser:
    made = argparse.ArgumentParser(prog="python -m benchmarks.gpu", description=__doc__, allow_abbrev=False)
    add = made.add_argument
    add(
        "--config",
        default="deepseek-v3",
        metavar="NAME",
        help="a preset or config.json (default: deepseek-v3)",
    )
    add(
        "--layouts",
        type=_words,
        default=LAYOUTS,
        metavar="NAME[,...]",
        help=f"(default: {','.join(LAYOUTS)})",
    )
    add("--only", type=_words, default=SECTIONS[1:], metavar="SECTION[,...]",
        help=f"of {', '.join(SECTIONS)} (default: all but floors)")  # fmt: skip
    add("--parts", type=_words, default=(), metavar="NAME[,...]", help="of the operators (default: all)")
    add("--json", type=Path, metavar="FILE", help="written as results come")
    return made


def main(argv: Sequence[str] | None = None) -> int:
    """0 done, 1 failed, 2 wrong usage."""
    args = parser().parse_args(argv)
    try:
        for word in args.only:
            if word not in SECTIONS:
                raise UsageError(
                    f"--only {word} is unknown{did_you_mean(word, SECTIONS)}; use {', '.join(SECTIONS)}"
                )
        if args.json and not args.json.absolute().parent.is_dir():
            raise UsageError(f"--json {args.json}: its folder does not exist; make it first")
        layouts = args.layouts if args.config == "deepseek-v3" else ("tp1",)
        wanted = [
            (layout, part)
            for layout in layouts
            for part in sorted(parts(args.config, layout), key=_weight, reverse=True)
            if not args.parts or part.name in args.parts
        ]
        if "floors" in args.only:
            console(100, 160).print(table.floors(wanted, _catalogued("H200"), FULL.steps))
        if set(args.only) != {"floors"}:
            _run(args, layouts, wanted)
    except FullboreError as error:
        print(f"gpu: error: {error}", file=sys.stderr)
        return error.exit_code
    return 0


def _run(args: argparse.Namespace, layouts: Sequence[str], wanted: list[tuple[str, Part]]) -> None:
    begin = time.monotonic()
    device = find_device("cuda")
    timer: Timer
    if device == CUDA:
        gpu, stream = accelerators()[0], CudaStream()
        ceiling, timer, cache = device_probes(stream).measure(), GraphTimer(stream), gpu.cache_bytes
        load = FULL
        report = Report(args.json, {**asdict(gpu), **_told(ceiling)}, "")
    else:
        ceiling, timer, cache, stream, load = probes().measure(), ClockTimer(), 1, None, SMALL
        ceiling = Ceiling(ceiling.read, {**ceiling.flops, "fp8": ceiling.peak("bfloat16")})
        report = Report(
            args.json, _told(ceiling), "Triton's interpreter on a CPU: nothing here is a time of a GPU"
        )
        report.tell(report.meaningless)
    report.tell(f"{report.device.get('name', 'the CPU')}: {ceiling.describe()}")
    report.write()
    out = console(100, 160)
    if "operators" in args.only:
        until = float("inf") if report.meaningless else timer.now() + BUDGETS_S["operators"]
        bench = Bench(
            CATALOGUE, device.place, timer, stream, ceiling, cache, load.effort,
            until, report.tell,
        )  # fmt: skip
        for rows in measure(wanted, lambda part: _points(part, load), bench):
            report.operators += rows
            report.write()
        out.print(table.operators(report.operators))
    if "rank" in args.only and args.config == "deepseek-v3":
        for layout in layouts:
            names = [part.name for at, part in wanted if at == layout and part.name != "mla_prefill"]
            for batch, context in load.steps:
                step = rank_step(layout, names, report.operators, batch, context)
                report.rank.append({**asdict(step), "total_ms": step.total_ms})
        out.print(table.rank(report.rank))
        report.write()
    if "serving" in args.only and args.config == "deepseek-v3":
        _serve(layouts, report)
        out.print(table.serving(report.serving))
    report.tell(f"{time.monotonic() - begin:.0f} s in all")
    report.write()


def _serve(layouts: Sequence[str], report: Report) -> None:
    if report.meaningless or not serving.able():
        report.tell("serving left out: needs a GPU and fullbore serve --emulate-rank")
        return
    gc.collect()
    torch.cuda.empty_cache()  # the server is another process, and wants most of the memory
    until = time.monotonic() + BUDGETS_S["serving"]
    for layout in layouts:
        if time.monotonic() > until:
            report.tell(f"out of time: {layout} not served")
            return
        report.serving.append(asdict(serving.served(layout, until, report.tell)))
        report.write()


def _points(part: Part, load: Load) -> list[Point]:
    """What a whole step needs first."""
    names = OPERATORS[part.layer.job.operator].shapes[0]
    if "first" in names:
        return [Point(tokens * part.split, first) for tokens, first in load.chunks]
    if "context" in names:
        others = [Point(batch, context) for batch in load.batches for _, context in load.steps]
        return [*(Point(batch, context) for batch, context in load.steps), *others]
    batches = [batch for batch, _ in load.steps]
    return [Point(tokens, 0) for tokens in (*batches, *load.batches, *(tokens for tokens, _ in load.chunks))]


def _weight(part: Part) -> float:
    """Its share of a step's floor: the largest are measured first."""
    return part.calls * part.floor_us(_catalogued("H200"), part.tokens(128), 640)


def _catalogued(name: str) -> Ceiling:
    device = find_catalogued(name)
    fp8 = device.fp8_flop_s.value if device.fp8_flop_s else device.bf16_flop_s.value
    return Ceiling(device.bandwidth_bytes_s.value, {"bfloat16": device.bf16_flop_s.value, "fp8": fp8})


def _told(ceiling: Ceiling) -> dict[str, Any]:
    return {"read_bytes_s": ceiling.read, "flop_s": dict(ceiling.flops)}


def _words(text: str) -> tuple[str, ...]:
    return tuple(word.strip() for word in text.split(",") if word.strip())


if __name__ == "__main__":
    sys.exit(main())
