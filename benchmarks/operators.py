"""Every kernel at real layer sizes: ``python -m benchmarks.operators``.

Kernels of one layer take turns, weights come from memory, and both ceilings are probed before and after each
point.
"""

import argparse
import json
import os
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path

from rich import box
from rich.console import Console
from rich.table import Table

# Before torch is imported: waiting threads must sleep, as in the engine, since two pools that spin keep each
# other from the cores.
os.environ.setdefault("OMP_WAIT_POLICY", "passive")

import torch

from benchmarks.layers import Layer, layers
from benchmarks.measuring import Bench, Row, able, measure
from fullbore.errors import FullboreError, UsageError, did_you_mean
from fullbore.hardware.cpu import best_dtype, cpu_model, last_level_cache_bytes
from fullbore.hardware.limits import free_memory_bytes, usable_cores
from fullbore.kernels.catalogue import CATALOGUE
from fullbore.kernels.probes import probes
from fullbore.ops.operators import OPERATORS
from fullbore.ops.registry import Registry
from fullbore.tune.timing import Effort

SCHEMA = "fullbore.operators/1"
FORMATS = tuple(dict.fromkeys(one for operator in OPERATORS.values() for one in operator.formats))
DEFAULT_FORMATS = tuple(one for one in FORMATS if one not in ("none", "fp32"))
INTERRUPTED = 130
MEMORY_SHARE = 0.4  # of the free memory, for packed weights; drawing them takes some as well
TABLE_WIDTH = 170


def parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.operators", description=__doc__, allow_abbrev=False
    )
    add = parser.add_argument
    add("--models", type=_words, default=("deepseek-v3", "bench-1b5"), metavar="NAME[,...]",
        help="presets of make-checkpoint, or config.json files (default: deepseek-v3,bench-1b5)")  # fmt: skip
    add("--operators", type=_words, default=tuple(OPERATORS), metavar="NAME[,...]", help="(default: all)")
    add("--formats", type=_words, default=DEFAULT_FORMATS, metavar="NAME[,...]",
        help=f"of weights (default: {','.join(DEFAULT_FORMATS)})")  # fmt: skip
    add("--dtypes", type=_words, default=(best_dtype(),), metavar="NAME[,...]",
        help=f"of activations: float32, bfloat16 (default: the fastest here, {best_dtype()})")  # fmt: skip
    add("--kernels", type=_words, default=(), metavar="NAME[,...]", help="(default: all registered)")
    add("--tokens", type=_counts, default=(1, 4, 8, 16, 64, 256), metavar="N[,...]",
        help="in a call (default: 1,4,8,16,64,256)")  # fmt: skip
    add("--contexts", type=_counts, default=(640, 2560), metavar="N[,...]",
        help="keys of a decode, tokens before a prefill (default: 640,2560)")  # fmt: skip
    add("--seconds", type=_positive, default=1.0, metavar="S", help="for each point (default: 1)")
    add(
        "--readings",
        type=int,
        default=7,
        metavar="N",
        help="of each kernel at a point, at least (default: 7)",
    )
    add(
        "--patience",
        type=_positive,
        default=2.0,
        metavar="S",
        help="a slower call is timed once (default: 2)",
    )
    add("--minutes", type=_positive, default=0.0, metavar="M", help="start no point after M minutes")
    add("--threads", type=int, default=usable_cores(), metavar="N", help="(default: every core)")
    add("--memory-gb", type=_positive, default=0.0, metavar="GB", help="for packed weights (default: chosen)")
    add("--json", type=Path, metavar="FILE", help="write every row there")
    return parser


def main(argv: Sequence[str] | None = None, registry: Registry = CATALOGUE) -> int:
    """0 done, 1 nothing was measured, 2 wrong usage, 130 interrupted; rows are printed whatever happens."""
    args = parser().parse_args(argv)
    screen = Console(stderr=True, highlight=False)
    try:
        _check(args, registry)
        torch.set_num_threads(args.threads)
        rows, interrupted = _measure(args, registry, screen)
    except FullboreError as error:
        screen.print(f"operators: error: {error}", markup=False)
        return error.exit_code
    Console(highlight=False, width=TABLE_WIDTH).print(table(rows))
    if args.json:
        args.json.write_text(json.dumps(as_json(rows, args.threads), indent=1) + "\n")
    return INTERRUPTED if interrupted else int(not rows)


def _measure(args: argparse.Namespace, registry: Registry, screen: Console) -> tuple[list[Row], bool]:
    """The rows, and whether the user ended it."""
    memory = int(args.memory_gb * 1e9) or int(MEMORY_SHARE * free_memory_bytes())
    effort = Effort(args.seconds, args.readings, 10_000)
    bench = Bench(
        registry, probes(), last_level_cache_bytes(), memory, effort, args.patience, time.perf_counter
    )
    rows: list[Row] = []
    end_s = time.monotonic() + 60 * args.minutes if args.minutes else float("inf")
    with suppress(KeyboardInterrupt):
        for point in _points(args, bench, screen):
            rows += point
            for row in point:
                screen.print(f"  {row.tokens:5} tok {_context(row)}{row.kernel}: {_share(row)}", markup=False)
            if time.monotonic() > end_s:
                screen.print(f"ended after {args.minutes:g} minutes")
                break
        return rows, False
    return rows, True


def _points(args: argparse.Namespace, bench: Bench, screen: Console) -> Iterator[list[Row]]:
    told: set[str] = set()
    for layer in _layers(args):
        kernels, reasons = able(layer, bench.registry, args.kernels)
        for reason in reasons:
            if reason not in told:
                told.add(reason)
                screen.print(f"left out: {reason}", markup=False)
        if kernels:
            job = layer.job
            where = f"{layer.model} {job.operator}: {layer.describe()}, {job.format}, {job.dtype}"
            screen.print(where, markup=False)
            yield from measure(layer, kernels, args.tokens, args.contexts, bench)


def _layers(args: argparse.Namespace) -> Iterator[Layer]:
    for model in args.models:
        yield from layers(model, args.operators, args.formats, args.dtypes)


def table(rows: Sequence[Row]) -> Table:
    """One line a kernel and point."""
    shown = Table(box=box.SIMPLE_HEAD, padding=(0, 1), pad_edge=False, show_edge=False)
    for heading in (
        "model", "operator", "layer", "weights", "computes", "tokens", "context", "kernel", "us", "±%",
        "GB/s", "GFLOP/s", "floor us", "of floor", "probed\nGB/s", "probed\nGFLOP/s",
    ):  # fmt: skip
        left = heading in ("model", "operator", "layer", "weights", "computes", "kernel")
        shown.add_column(heading, justify="left" if left else "right", no_wrap=heading != "layer")
    previous = None
    for row in rows:
        point = (row.model, row.operator, row.layer, row.format, row.dtype)
        if previous not in (None, point):
            shown.add_section()
        same = point == previous
        shown.add_row(
            *(("", "", "", "", "") if same else (row.model, row.operator, row.layer, row.format, row.dtype)),
            str(row.tokens), str(row.context or ""), row.kernel, _us(row.time.median_us), _spread(row),
            f"{row.gb_s:.1f}", f"{row.gflop_s:.0f}", _us(row.floor_us), _share(row),
            f"{row.read_gb_s:.1f}", f"{row.peak_gflop_s:.0f}{'' if row.steady else '!'}",
        )  # fmt: skip
        previous = point
    return shown


def as_json(rows: Sequence[Row], threads: int) -> dict[str, object]:
    """Units are in the names; ``fraction``: of the ceiling that binds."""
    return {
        "schema": SCHEMA,
        "cpu": cpu_model(),
        "threads": threads,
        "torch": torch.__version__,
        "rows": [{**asdict(row), "fraction": row.fraction} for row in rows],
    }


def _share(row: Row) -> str:
    return f"{row.fraction:.0%} {row.bound}"


def _context(row: Row) -> str:
    return f"x {row.context:5} " if row.context else ""


def _spread(row: Row) -> str:
    """Half of the middle half of the readings, in percent of the median; blank for a single reading."""
    if row.time.repeats == 1:
        return ""
    return f"{50 * (row.time.high_us - row.time.low_us) / row.time.median_us:.0f}"


def _us(value: float) -> str:
    return f"{value:.0f}" if value >= 100 else f"{value:.3g}"


def _check(args: argparse.Namespace, registry: Registry) -> None:
    """Raise UsageError for a name that nothing knows, before anything takes time."""
    for flag, given, known in (
        ("--operators", args.operators, set(OPERATORS)),
        ("--formats", args.formats, set(FORMATS)),
        ("--dtypes", args.dtypes, {"float32", "bfloat16"}),
        ("--kernels", args.kernels, {entry.name for entry in registry.entries}),
    ):
        for word in given:
            if word not in known:
                raise UsageError(
                    f"{flag}: {word!r} is unknown{did_you_mean(word, known)}; "
                    f"expected some of {', '.join(sorted(known))}"
                )
    if args.json and not args.json.absolute().parent.is_dir():
        raise UsageError(f"--json {args.json}: its folder does not exist; make it first")


def _words(text: str) -> tuple[str, ...]:
    return tuple(word.strip() for word in text.split(",") if word.strip())


def _counts(text: str) -> tuple[int, ...]:
    counts = tuple(int(word) if word.isascii() and word.isdigit() else 0 for word in _words(text))
    if not counts or min(counts) < 1:
        raise argparse.ArgumentTypeError(f"{text!r}: expected whole numbers from 1 on, with commas between")
    return counts


def _positive(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = 0.0
    if not 0 < value < 1e6:
        raise argparse.ArgumentTypeError(f"{text!r}, expected a number above 0")
    return value


if __name__ == "__main__":
    sys.exit(main())
