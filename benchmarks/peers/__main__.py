"""``python -m benchmarks.peers``: flags, the campaign, the table."""

import argparse
import os
import signal
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from fractions import Fraction
from pathlib import Path

from rich.console import Console

from benchmarks.peers import results as files
from benchmarks.peers.campaign import Campaign, Plan
from benchmarks.peers.catalogue import PEERS, choose
from benchmarks.peers.peer import Peer, Setting, model_name
from benchmarks.peers.results import Point
from benchmarks.peers.table import report
from fullbore.errors import FullboreError
from fullbore.hardware.limits import usable_cores
from fullbore.scenario.scenario import load_scenario

INTERRUPTED = 130
PURPOSE = "Measure this server beside other engines: same weights, same client, one table."
TABLE_WIDTH = 150
FEWEST_REQUESTS = 4


def parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.peers", description=PURPOSE, allow_abbrev=False
    )
    add = parser.add_argument
    names = ", ".join(peer.name for peer in PEERS)
    add("--peers", type=_words, default=("fullbore fp8_block", "fullbore bf16", "llama.cpp"),
        help=f"comma separated, an engine's name stands for all its formats: {names}")  # fmt: skip
    add("--scenario", type=_words, default=("dialog", "code"), help="comma separated (default: dialog,code)")
    add("--output-scale", type=_fraction, default=Fraction(1, 8), metavar="F",
        help="multiplies the length of answers; prompts keep theirs (default: 1/8)")  # fmt: skip
    add("--concurrency", type=_counts, default=(1, 4, 16, 32, 64), metavar="N[,N...]",
        help="requests in flight, closed loop (default: 1,4,16,32,64)")  # fmt: skip
    add("--requests-per-slot", type=_count, default=2, metavar="N", help="(default: 2; at least 4 in all)")
    add("--rounds", type=_count, default=1, metavar="N", help="measure everything N times (default: 1)")
    add("--again", action="store_true", help="measure anew what the file has of these peers and loads")
    add("--config", default="bench-1b5", help="of fullbore make-checkpoint (default: %(default)s)")
    add("--home", type=Path, default=_cache(), help="for environments and checkpoints (default: %(default)s)")
    add("--json", type=Path, help="results, gone on with if it is there (default: HOME/results/CONFIG.json)")
    add("--threads", type=_count, default=usable_cores(), metavar="N", help="(default: every core)")
    add("--python", default=sys.executable, help="makes the environments (default: this one)")
    add("--start-timeout", type=float, default=900.0, metavar="S", help="until a server is ready (900)")
    add("--silence", type=float, default=300.0, metavar="S", help="a stream silent for S s failed (300)")
    add("--point-seconds", type=float, default=1800.0, metavar="S", help="send nothing after S s (1800)")
    add("--seed", type=int, default=0, help="of the prompts, the same for every peer (default: 0)")
    add("--install-only", action="store_true", help="install, make and convert, measure nothing")
    add("--table", action="store_true", help="only print what the file holds")
    return parser


def main(argv: Sequence[str] | None = None, peers: Sequence[Peer] = PEERS) -> int:
    """0: all that was asked is there; 1: something failed; 2: wrong usage; 130: interrupted."""
    args = parser().parse_args(argv)
    screen = Console(stderr=True, highlight=False)
    try:
        return _run(args, choose(args.peers, peers), screen)
    except FullboreError as error:
        screen.print(f"peers: error: {error}", markup=False)
        return error.exit_code


def _run(args: argparse.Namespace, peers: Sequence[Peer], screen: Console) -> int:
    points = _points(args, model_name(args.config))
    setting = Setting(
        home=args.home.absolute(),
        config=args.config,
        threads=args.threads,
        slots=max(point.concurrency for point in points),
        longest=max(point.input_tokens + point.output_tokens for point in points),
        python=args.python,
    )
    path = args.json or setting.home / "results" / f"{setting.model}.json"
    results = files.read(path)
    code = 0
    if not args.table:
        if args.again:
            results.forget((peer.name for peer in peers), points)
        plan = Plan(
            peers=peers,
            points=() if args.install_only else points,
            setting=setting,
            rounds=args.rounds,
            start_timeout_s=args.start_timeout,
            silence_s=args.silence,
            point_s=args.point_seconds,
            seed=args.seed,
        )
        try:
            with _termination_interrupts():
                Campaign(plan, results, path, screen).run()
        except KeyboardInterrupt:
            code = INTERRUPTED
        files.write(path, results)
    Console(highlight=False, width=TABLE_WIDTH).print(report(results))
    return code or int(any(failure.peer in {peer.name for peer in peers} for failure in results.failures))


def _points(args: argparse.Namespace, model: str) -> list[Point]:
    """Every load that the flags name."""
    points = []
    for name in args.scenario:
        scenario = load_scenario(name)
        output = max(2, round(scenario.output_tokens * args.output_scale))
        for concurrency in args.concurrency:
            requests = max(FEWEST_REQUESTS, args.requests_per_slot * concurrency)
            points.append(Point(model, name, scenario.input_tokens, output, concurrency, requests))
    return points


@contextmanager
def _termination_interrupts() -> Iterator[None]:
    """Let what ends this process from outside act like Ctrl-C: no server stays behind."""
    numbers = (signal.SIGTERM, signal.SIGHUP)
    before = [signal.signal(number, lambda *_: signal.raise_signal(signal.SIGINT)) for number in numbers]
    try:
        yield
    finally:
        for number, handler in zip(numbers, before, strict=True):
            signal.signal(number, handler)


def _cache() -> Path:
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "fullbore" / "peers"


def _words(text: str) -> tuple[str, ...]:
    return tuple(word.strip() for word in text.split(",") if word.strip())


def _counts(text: str) -> tuple[int, ...]:
    return tuple(_count(part) for part in text.split(","))


def _count(text: str) -> int:
    if not (text.isascii() and text.isdigit() and 1 <= int(text) <= 100_000):
        raise argparse.ArgumentTypeError(f"{text!r} is no whole number from 1 to 100000")
    return int(text)


def _fraction(text: str) -> Fraction:
    try:
        value = Fraction(text)
    except (ValueError, ZeroDivisionError):
        value = Fraction(0)
    if not 0 < value <= 1:
        raise argparse.ArgumentTypeError(f"{text!r} is no scale above 0 and up to 1, such as 1/8")
    return value


if __name__ == "__main__":
    sys.exit(main())
