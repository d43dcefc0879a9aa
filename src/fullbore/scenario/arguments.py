"""The flags that say what is asked and how: the same ones for a server that is measured and for one that is
simulated, so that both are asked the same."""

import argparse
import math
import secrets
from collections.abc import Callable
from dataclasses import replace
from fractions import Fraction
from typing import Any

from fullbore.errors import UsageError
from fullbore.flags import duration, whole_number
from fullbore.scenario.arrival import MOST_CONCURRENCY, Arrival, ClosedLoop, Replay, parse_open_loop
from fullbore.scenario.length_values import parse_lengths
from fullbore.scenario.scenario import PERCENTILES, Limits, Scenario, load_scenario
from fullbore.scenario.trace import Trace
from fullbore.scenario.trace_file import FORMATS

MOST_REQUESTS = 10_000_000


def add_scenario(add: Callable[..., Any], seed: int | None = None) -> None:
    """``add``: ``add_argument`` of a parser or a group. seed: unless given; None: another one every time."""
    add(
        "--scenario",
        default="dialog",
        metavar="NAME|FILE",
        help="dialog, code, peak, chat or a .toml file (default dialog)",
    )
    add(
        "--scale",
        type=scale,
        default=Fraction(1),
        metavar="F",
        help="multiply the lengths, for instance with 1/8",
    )
    add(
        "--input",
        metavar="LENGTHS",
        help="prompt tokens instead of the scenario's: 128, 64-192, lognormal:mean=...",
    )
    add("--output", metavar="LENGTHS", help="output tokens instead of the scenario's")
    add("--trace", metavar="FILE", help="replay the requests of a recorded trace")
    add("--trace-format", choices=sorted(FORMATS), default="mooncake", help="of --trace (default mooncake)")
    add(
        "--seed",
        type=int,
        default=seed,
        help="repeat the requests of a run (default: "
        + ("fresh ones that no prefix cache has seen)" if seed is None else f"{seed})"),
    )
    add("--ttft", type=duration, metavar="TIME", help="limit instead of the scenario's, such as 2.01s")
    add("--tpot", type=duration, metavar="TIME", help="limit instead of the scenario's, such as 93ms")
    add("--percentile", choices=PERCENTILES, help="what the limits judge (default: the scenario's)")


def add_load(add: Callable[..., Any]) -> None:
    """As ``add_scenario``."""
    add(
        "--concurrency",
        "--sweep",
        dest="concurrency",
        type=_concurrencies,
        metavar="N[,N...]",
        help="in flight, one load after the other (default: the scenario's)",
    )
    add(
        "--rate",
        type=_rates,
        metavar="R[,R...]",
        help="an open loop: so many a second whatever is in flight; 0.5-8:60 rises over 60 s",
    )
    add(
        "--arrival",
        default="poisson",
        metavar="KIND",
        help="of --rate: poisson, constant, gamma:SHAPE or burst:SIZE",
    )
    add(
        "--ramp",
        type=duration,
        default=0.0,
        metavar="TIME",
        help="begin a closed loop over so long instead of at once",
    )
    add(
        "--requests",
        type=count,
        default=0,
        metavar="N",
        help="conversations at each load (default 4 a slot, at least 8; 60 s of an open loop)",
    )
    add("--seconds", type=seconds, default=0.0, metavar="S", help="send no request after S seconds at a load")


def arrivals_of(args: argparse.Namespace) -> tuple[Arrival, ...]:
    """The loads, one after the other; none: the scenario's own. UsageError for flags that contradict."""
    if args.concurrency and args.rate:
        raise UsageError(
            "--concurrency keeps requests in flight and --rate sends them at their times; use one"
        )
    if args.rate:
        if args.ramp:
            raise UsageError("--ramp begins a closed loop slowly; an open loop rises with --rate 0.5-8:60")
        return tuple(parse_open_loop(rate, args.arrival) for rate in args.rate)
    if args.arrival != "poisson":
        raise UsageError(
            f"--arrival {args.arrival} says how the requests of --rate follow each other; give --rate too"
        )
    if args.ramp and not args.concurrency:
        raise UsageError("--ramp is for the loads that --concurrency names; give that too")
    return tuple(ClosedLoop(each, args.ramp) for each in args.concurrency or ())


def scenario_of(args: argparse.Namespace) -> Scenario:
    """What is asked. UsageError for flags that contradict each other."""
    scenario = load_scenario(args.scenario)
    if args.trace:
        if args.input or args.output:
            raise UsageError("--input and --output beside --trace, which has its own lengths; leave them out")
        scenario = _replayed(scenario, Trace.open(args.trace, args.trace_format))
    scenario = scenario.scaled(args.scale)
    if (args.input or args.output) and scenario.trace:
        raise UsageError(f"--input and --output do not change the trace of {scenario.name}; leave them out")
    if args.input or args.output:
        scenario = replace(
            scenario,
            name=f"{scenario.name}*",  # no longer the published one
            input=parse_lengths(args.input, "--input") if args.input else scenario.input,
            output=parse_lengths(args.output, "--output") if args.output else scenario.output,
        )
    limits = scenario.limits
    limits = Limits(
        ttft_ms=args.ttft * 1e3 if args.ttft else limits.ttft_ms,
        tpot_ms=args.tpot * 1e3 if args.tpot else limits.tpot_ms,
        percentile=args.percentile or limits.percentile,
    )
    return replace(scenario, limits=limits, seed=secrets.randbits(32) if args.seed is None else args.seed)


def _replayed(scenario: Scenario, trace: Trace) -> Scenario:
    """The limits of ``scenario`` on the requests of ``trace``."""
    arrival: Arrival = Replay() if trace.span_s is not None else scenario.arrival
    return replace(
        scenario, name="trace", trace=trace, input=trace.input, output=trace.output, arrival=arrival
    )


def _concurrencies(text: str) -> tuple[int, ...]:
    return tuple(whole_number(part, 1, MOST_CONCURRENCY) for part in text.split(","))


def _rates(text: str) -> tuple[str, ...]:
    for part in text.split(","):
        parse_open_loop(part)  # its error says what was expected
    return tuple(text.split(","))


def count(text: str) -> int:
    """A flag that takes a whole number from 1."""
    return whole_number(text, 1, MOST_REQUESTS)


def seconds(text: str) -> float:
    """A flag that takes seconds above 0."""
    try:
        value = float(text)
    except ValueError:
        value = 0.0
    if not 0 < value < math.inf:
        raise argparse.ArgumentTypeError(f"{text!r} is no number of seconds above 0")
    return value


def scale(text: str) -> Fraction:
    """A flag that takes what lengths are multiplied with."""
    try:
        value = Fraction(text)
    except (ValueError, ZeroDivisionError):
        value = Fraction(0)
    if not 0 < value <= 1:
        raise argparse.ArgumentTypeError(f"{text!r} is no scale above 0 and up to 1, such as 1/8 or 0.125")
    return value
