"""The flags of ``fullbore bench``, and the scenario and loads that they describe."""

import argparse
import math
import os
import secrets
from collections.abc import Callable
from dataclasses import replace
from fractions import Fraction
from typing import Any

import msgspec

from fullbore.bench.client import COMPLETIONS, ENDPOINTS
from fullbore.bench.measuring import Bench
from fullbore.errors import UsageError
from fullbore.flags import duration, whole_number
from fullbore.scenario.arrival import MOST_CONCURRENCY, Arrival, ClosedLoop, Replay, parse_open_loop
from fullbore.scenario.length_values import parse_lengths
from fullbore.scenario.scenario import PERCENTILES, Limits, Scenario, load_scenario
from fullbore.scenario.trace import Trace
from fullbore.scenario.trace_file import FORMATS

MOST_REQUESTS = 10_000_000


def configure(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("server", nargs="?", default="", metavar="URL", help="the server, such as http://127.0.0.1:8000")
    add("--url", default="", help="the same as URL")
    _add_scenario(parser.add_argument_group("what is asked").add_argument)
    _add_load(parser.add_argument_group("how it is asked").add_argument)
    _add_client(parser.add_argument_group("the server and the client").add_argument)


def _add_scenario(add: Callable[..., Any]) -> None:
    add(
        "--scenario",
        default="dialog",
        metavar="NAME|FILE",
        help="dialog, code, peak, chat or a .toml file (default dialog)",
    )
    add(
        "--scale",
        type=_scale,
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
        help="repeat the prompts of a run (default: fresh ones that no prefix cache has seen)",
    )
    add("--ttft", type=duration, metavar="TIME", help="limit instead of the scenario's, such as 2.01s")
    add("--tpot", type=duration, metavar="TIME", help="limit instead of the scenario's, such as 93ms")
    add("--percentile", choices=PERCENTILES, help="what the limits judge (default: the scenario's)")


def _add_load(add: Callable[..., Any]) -> None:
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
        type=_count,
        default=0,
        metavar="N",
        help="conversations at each load (default 4 a slot, at least 8; 60 s of an open loop)",
    )
    add(
        "--seconds", type=_seconds, default=0.0, metavar="S", help="send no request after S seconds at a load"
    )


def _add_client(add: Callable[..., Any]) -> None:
    add("--model", default="", help="which of the server's models (default: its only one)")
    add("--api-key", default="", help="sent as a bearer token (default: OPENAI_API_KEY)")
    add("--vocab", type=_count, default=0, metavar="N", help="vocabulary size, if the server does not say it")
    add("--endpoint", default=COMPLETIONS, choices=sorted(ENDPOINTS), help=f"default {COMPLETIONS}")
    add(
        "--extra-body",
        type=_object,
        default={},
        metavar="JSON",
        help="fields that are added to each request, such as '{\"top_p\": 0.9}'",
    )
    add(
        "--timeout",
        type=_seconds,
        default=600.0,
        metavar="S",
        help="a stream that brings nothing for S seconds failed",
    )
    add(
        "--processes",
        type=_count,
        default=0,
        metavar="N",
        help="of this client (default: one for every 512 in flight, up to one a core)",
    )


def bench_of(args: argparse.Namespace) -> Bench:
    """What the flags ask for. UsageError where they contradict each other."""
    if args.server and args.url and args.server != args.url:
        raise UsageError(f"two servers are named, {args.server} and --url {args.url}; name one")
    url = args.server or args.url
    if not url:
        raise UsageError("no server is named; for instance: fullbore bench http://127.0.0.1:8000")
    return Bench(
        url=url,
        scenario=_scenario(args),
        arrivals=_arrivals(args),
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


def _arrivals(args: argparse.Namespace) -> tuple[Arrival, ...]:
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


def _scenario(args: argparse.Namespace) -> Scenario:
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


def _count(text: str) -> int:
    return whole_number(text, 1, MOST_REQUESTS)


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
    if not 0 < value < math.inf:
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
