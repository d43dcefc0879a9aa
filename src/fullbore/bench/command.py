"""``fullbore bench``: measure any OpenAI-compatible server under a scenario, in a closed loop."""

import argparse
import asyncio
import math
import os
import secrets
import time
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field, replace
from fractions import Fraction
from typing import Any

import msgspec
from rich.console import Console
from rich.progress import BarColumn, Progress, SpinnerColumn, TextColumn, TimeRemainingColumn

from fullbore.bench import running
from fullbore.bench.client import COMPLETIONS, ENDPOINTS, Client, Target
from fullbore.bench.load import Live, Load
from fullbore.bench.report import Result, check_writable, write_json
from fullbore.bench.table import console, report
from fullbore.bench.workers import drive_across
from fullbore.errors import FullboreError, UsageError
from fullbore.scenario.arrival import MOST_CONCURRENCY, ClosedLoop
from fullbore.scenario.lengths import Fixed
from fullbore.scenario.scenario import Scenario, load_scenario

FEWEST_REQUESTS = 8
REQUESTS_PER_SLOT = 4
WARM_UP_TOKENS = 8
REFRESH_S = 0.5
INTERRUPTED = 130


@dataclass(frozen=True)
class Bench:
    """One scenario against one server. ``requests`` 0: four a slot, at least eight; ``seconds`` 0: no end."""

    url: str
    scenario: Scenario
    concurrencies: tuple[int, ...]
    requests: int = 0
    seconds: float = 0.0
    model: str = ""
    api_key: str = ""
    vocab_size: int = 0
    timeout_s: float = 600.0
    endpoint: str = COMPLETIONS
    extra_body: Mapping[str, Any] = field(default_factory=dict)
    processes: int = 0  # 0: as many as the concurrency needs


def configure(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("server", nargs="?", default="", metavar="URL", help="the server, such as http://127.0.0.1:8000")
    add("--url", default="", help="the same as URL")
    add(
        "--scenario",
        default="dialog",
        metavar="NAME|FILE",
        help="dialog, code or a .toml file (default dialog)",
    )
    add("--concurrency", type=_concurrencies, metavar="N[,N...]", help="in flight (default: the scenario's)")
    add(
        "--requests",
        type=_count,
        default=0,
        metavar="N",
        help="a concurrency's requests (default 4 N, at least 8)",
    )
    add(
        "--seconds",
        type=_seconds,
        default=0.0,
        metavar="S",
        help="send no request after S seconds at a concurrency",
    )
    add(
        "--scale",
        type=_scale,
        default=Fraction(1),
        metavar="F",
        help="multiply the lengths, for instance with 1/8",
    )
    add("--input", type=_count, metavar="N", help="prompt tokens instead of the scenario's")
    add("--output", type=_count, metavar="N", help="output tokens instead of the scenario's")
    add(
        "--seed",
        type=int,
        help="repeat the prompts of a run (default: fresh ones that no prefix cache has seen)",
    )
    add("--model", default="", help="which of the server's models (default: its only one)")
    add("--api-key", default="", help="sent as a bearer token (default: OPENAI_API_KEY)")
    add("--vocab", type=_count, default=0, metavar="N", help="vocabulary size, if the server does not say it")
    add(
        "--timeout",
        type=_seconds,
        default=600.0,
        metavar="S",
        help="a stream that brings nothing for S seconds failed",
    )
    add("--endpoint", default=COMPLETIONS, choices=sorted(ENDPOINTS), help="default completions")
    add(
        "--extra-body",
        type=_object,
        default={},
        metavar="JSON",
        help="fields that are added to each request, such as '{\"top_p\": 0.9}'",
    )
    add(
        "--processes",
        type=_count,
        default=0,
        metavar="N",
        help="of this client (default: one for every 512 in flight, up to one a core)",
    )
    add("--json", default="", metavar="FILE", help="write the report there")


def run(args: argparse.Namespace) -> int:
    if args.server and args.url and args.server != args.url:
        raise UsageError(f"two servers are named, {args.server} and --url {args.url}; name one")
    url = args.server or args.url
    if not url:
        raise UsageError("no server is named; for instance: fullbore bench http://127.0.0.1:8000")
    if args.json:
        check_writable(args.json)
    scenario = _scenario(args)
    bench = Bench(
        url=url,
        scenario=scenario,
        concurrencies=args.concurrency or _own_concurrency(scenario),
        requests=args.requests,
        seconds=args.seconds,
        model=args.model,
        api_key=args.api_key or os.environ.get("OPENAI_API_KEY", ""),
        vocab_size=args.vocab,
        timeout_s=args.timeout,
        endpoint=args.endpoint,
        extra_body=args.extra_body,
        processes=args.processes,
    )
    results: list[Result] = []

    def keep(result: Result) -> None:
        results.append(result)
        if args.json:
            write_json(args.json, results)

    try:
        finished = running.run(measure(bench, keep, console(stderr=True)))
    finally:
        if results:
            console().print(report(results))
    if not finished:
        return INTERRUPTED
    return 0 if all(result.figures.requests_ok and not result.load.failed for result in results) else 1


async def measure(bench: Bench, keep: Callable[[Result], None], screen: Console) -> bool:
    """Measure every concurrency of ``bench``, giving each result to ``keep`` as soon as it is there.

    False when the user interrupted; what was measured until then has been kept. Progress goes to ``screen``.
    """
    async with Client(bench.url, bench.api_key, bench.timeout_s, bench.endpoint, bench.extra_body) as client:
        target = await client.discover(bench.model, bench.vocab_size)
        scenario = bench.scenario
        _check_fits(scenario, target)
        weights = f" ({target.weights})" if target.weights else ""
        screen.print(f"{scenario.describe()}; seed {scenario.seed}; {target.model}{weights} at {target.url}")
        for concurrency in bench.concurrencies:
            count = bench.requests or max(FEWEST_REQUESTS, REQUESTS_PER_SLOT * concurrency)
            warmed = await _warm_up(
                bench.processes, client, target, scenario, min(concurrency, count), screen
            )
            if warmed.interrupted:
                return False
            live = Live()
            async with _progress(screen, scenario, concurrency, count, live, bench.seconds):
                sessions = scenario.sessions(f"concurrency {concurrency}", count)
                load = await drive_across(
                    bench.processes, client, target, sessions, concurrency, seconds=bench.seconds, live=live
                )
            if load.records:
                arrival = ClosedLoop(concurrency)
                keep(Result.of(replace(scenario, arrival=arrival), concurrency, target, load))
            if load.interrupted:
                return False
    return True


async def _warm_up(
    processes: int, client: Client, target: Target, scenario: Scenario, concurrency: int, screen: Console
) -> Load:
    """One short request a slot, with other prompts than the measured ones, which no prefix cache may know."""
    short = scenario.warm_up(concurrency, WARM_UP_TOKENS)
    live = Live()
    async with _progress(screen, short, concurrency, concurrency, live, what="warm-up "):
        sessions = short.sessions(f"warm-up {concurrency}", concurrency)
        load = await drive_across(processes, client, target, sessions, concurrency, live=live)
    if load.records and not load.interrupted and not any(record.ok for record in load.records):
        first = load.records[0]
        raise FullboreError(
            f"every one of {len(load.records)} warm-up requests to {target.url} failed; the first with "
            f"{first.outcome}{': ' + first.error if first.error else ''}"
        )
    return load


@asynccontextmanager
async def _progress(
    screen: Console,
    scenario: Scenario,
    concurrency: int,
    count: int,
    live: Live,
    seconds: float = 0.0,
    what: str = "",
) -> AsyncIterator[None]:
    """A bar of output tokens, drawn by this event loop: a drawing thread would delay the clock of chunks."""
    progress = Progress(
        SpinnerColumn(),
        TextColumn("{task.description}"),
        BarColumn(),
        TextColumn("{task.fields[state]}"),
        TimeRemainingColumn(),
        console=screen,
        auto_refresh=False,
        transient=bool(what),
    )
    bar = progress.add_task(
        f"{what}{scenario.name} x{concurrency}", total=count * scenario.output_tokens, state=""
    )

    def draw() -> None:
        elapsed_s = max(1e-9, time.perf_counter() - live.started_s)
        known = live.done + live.in_flight if seconds and elapsed_s > seconds else count
        good = live.done - live.failed
        ttft = f"  TTFT {live.ttft_sum_s / good * 1e3:.0f} ms" if good else ""
        failed = f"  {live.failed} failed" if live.failed else ""
        load = f"{live.done}/{known} done  {live.in_flight} in flight  {live.tokens / elapsed_s:.0f} tok/s"
        progress.update(
            bar, completed=live.tokens, total=known * scenario.output_tokens, state=load + ttft + failed
        )
        progress.refresh()

    async def redraw() -> None:
        while True:
            draw()
            await asyncio.sleep(REFRESH_S)

    with progress:
        drawing = asyncio.create_task(redraw())
        try:
            yield
        finally:
            drawing.cancel()
            with suppress(asyncio.CancelledError):
                await drawing
            draw()


def _scenario(args: argparse.Namespace) -> Scenario:
    scenario = load_scenario(args.scenario).scaled(args.scale)
    if args.input or args.output:
        scenario = replace(
            scenario,
            name=f"{scenario.name}*",  # no longer the published one
            input=Fixed(args.input) if args.input else scenario.input,
            output=Fixed(args.output) if args.output else scenario.output,
        )
    return replace(scenario, seed=secrets.randbits(32) if args.seed is None else args.seed)


def _own_concurrency(scenario: Scenario) -> tuple[int, ...]:
    if scenario.concurrency is None:
        raise UsageError(f"{scenario.name} is no closed loop; say how many are in flight with --concurrency")
    return (scenario.concurrency,)


def _check_fits(scenario: Scenario, target: Target) -> None:
    need = scenario.most_tokens
    if target.max_model_len and need > target.max_model_len:
        fitting = Fraction(target.max_model_len, need) * scenario.scale
        raise UsageError(
            f"{scenario.describe()} is {need} tokens, but {target.model} takes at most "
            f"{target.max_model_len}; use for instance --scale 1/{math.ceil(1 / fitting)}"
        )


def _concurrencies(text: str) -> tuple[int, ...]:
    return tuple(_whole(part, MOST_CONCURRENCY) for part in text.split(","))


def _count(text: str) -> int:
    return _whole(text, 10_000_000)


def _whole(text: str, most: int) -> int:
    try:
        value = int(text)
    except ValueError:
        value = 0
    if not 1 <= value <= most:
        raise argparse.ArgumentTypeError(f"{text!r} is no whole number from 1 to {most}")
    return value


def _object(text: str) -> dict[str, Any]:
    try:
        return msgspec.json.decode(text, type=dict[str, Any])
    except msgspec.MsgspecError as error:
        raise argparse.ArgumentTypeError(f"{text!r} is no JSON object ({error})") from error


def _seconds(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = 0.0
    if not 0 < value < 1e9:
        raise argparse.ArgumentTypeError(f"{text!r} is no number of seconds above 0")
    return value


def _scale(text: str) -> Fraction:
    try:
        value = Fraction(text)
    except (ValueError, ZeroDivisionError):
        value = Fraction(0)
    if not 0 < value <= 1:
        raise argparse.ArgumentTypeError(f"{text!r} is no scale above 0 and up to 1, such as 1/8 or 0.125")
    return value
