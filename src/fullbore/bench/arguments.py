"""The flags of ``fullbore bench``, and the scenario and loads that they describe."""

import argparse
import os
from collections.abc import Callable
from typing import Any

import msgspec

from fullbore.bench.client import COMPLETIONS, ENDPOINTS
from fullbore.bench.measuring import Bench
from fullbore.errors import UsageError
from fullbore.scenario.arguments import add_load, add_scenario, arrivals_of, count, scenario_of, seconds


def configure(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("server", nargs="?", default="", metavar="URL", help="the server, such as http://127.0.0.1:8000")
    add("--url", default="", help="the same as URL")
    add_scenario(parser.add_argument_group("what is asked").add_argument)
    add_load(parser.add_argument_group("how it is asked").add_argument)
    _add_client(parser.add_argument_group("the server and the client").add_argument)


def _add_client(add: Callable[..., Any]) -> None:
    add("--model", default="", help="which of the server's models (default: its only one)")
    add("--api-key", default="", help="sent as a bearer token (default: OPENAI_API_KEY)")
    add("--vocab", type=count, default=0, metavar="N", help="vocabulary size, if the server does not say it")
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
        type=seconds,
        default=600.0,
        metavar="S",
        help="a stream that brings nothing for S seconds failed",
    )
    add(
        "--processes",
        type=count,
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
        scenario=scenario_of(args),
        arrivals=arrivals_of(args),
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


def _object(text: str) -> dict[str, Any]:
    try:
        return msgspec.json.decode(text, type=dict[str, Any])
    except msgspec.MsgspecError as error:
        raise argparse.ArgumentTypeError(f"{text!r} is no JSON object ({error})") from error
