"""``fullbore plan point``: what a server will do at one concurrency, before it is bought."""

import argparse
import json
from pathlib import Path

from fullbore import screen
from fullbore.errors import UsageError
from fullbore.flags import whole_number
from fullbore.hardware.catalogue import catalogue, with_file
from fullbore.hardware.servers import find_server
from fullbore.model.named import DEEPSEEK_V3, named_config
from fullbore.plan.closed_loop import Load
from fullbore.plan.memory import MOST_SHARE, USUAL_SHARE
from fullbore.plan.point import Point, as_json, predict
from fullbore.plan.point_page import page
from fullbore.scenario.arrival import MOST_CONCURRENCY
from fullbore.scenario.lengths import MOST_TOKENS
from fullbore.steptime.layout import Layout, parse_layout
from fullbore.steptime.model import Setting
from fullbore.steptime.network import CACHE_BYTES, RECIPES, find_recipe
from fullbore.steptime.profiles import engine_names, find_profile

REQUESTS_PER_SLOT = 10  # as in InferenceX; ramp and drain are in every figure
MOST_REQUESTS = 1_000_000


def configure(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    known = ", ".join(device.name for device in catalogue())
    add("--server", required=True, metavar="NxDEVICE", help=f"such as 8xMI300X; devices: {known}")
    add(
        "--catalogue",
        type=Path,
        metavar="FILE",
        help="more devices and servers, as fullbore inspect machine --write makes them",
    )
    add("--engine", default="fullbore", metavar="NAME[@VERSION]", help=", ".join(engine_names()))
    add("--config", default=DEEPSEEK_V3, metavar="NAME|FILE", help="the model (default %(default)s)")
    add("--weights", default="fp8", metavar="FORMAT", help=f"{', '.join(RECIPES)} (default %(default)s)")
    add(
        "--kv",
        "--kv-cache-dtype",
        default="bf16",
        choices=tuple(CACHE_BYTES),
        help="cache (default %(default)s)",
    )
    add("--layout", metavar="LAYOUT", help="such as tp8, ep8dp8 or tp8ep8 (default: tp over all devices)")
    add("--input", type=_tokens, required=True, metavar="N", help="tokens of a prompt, at most")
    add("--output", type=_answer, required=True, metavar="N", help="tokens of an answer, at most")
    add(
        "--length-range",
        type=_share,
        default=1.0,
        metavar="R",
        help="lengths are uniform from R times to once the stated ones (default 1: all alike)",
    )
    add("--concurrency", type=_concurrency, required=True, metavar="N", help="requests in flight")
    add("--requests", type=_requests, metavar="N", help=f"in all (default {REQUESTS_PER_SLOT} a slot)")
    add("--mtp", type=_drafts, default=0, metavar="N", help="tokens drafted in a step (default 0)")
    add("--acceptance", type=_share, default=0.8, metavar="P", help="of a draft, with --mtp (default 0.8)")
    add(
        "--memory-fraction",
        "--gpu-memory-utilization",
        type=_share,
        metavar="F",
        help=f"of each device's memory in use (default {USUAL_SHARE}, {MOST_SHARE} where that is needed)",
    )
    add("--json", action="store_true", help="print one JSON object")


def run(args: argparse.Namespace) -> int:
    point = predict_from(args)
    if args.json:
        print(json.dumps(as_json(point), indent=1))
    else:
        screen.console(80, 110).print(page(point))
    return 0


def predict_from(args: argparse.Namespace) -> Point:
    """The point that the arguments describe."""
    table = with_file(args.catalogue) if args.catalogue else None
    config, server = named_config(args.config), find_server(args.server, table)
    if args.mtp and not config.num_nextn_predict_layers:
        raise UsageError(f"--mtp {args.mtp}: {args.config} has no MTP layer (leave the flag out)")
    layout = parse_layout(args.layout) if args.layout else Layout(tp=server.count)
    requests = args.requests or min(MOST_REQUESTS, REQUESTS_PER_SLOT * args.concurrency)
    if args.input + args.output > config.max_position_embeddings:
        raise UsageError(
            f"--input {args.input} and --output {args.output} are {args.input + args.output} tokens; the "
            f"model has {config.max_position_embeddings} positions"
        )
    return predict(
        Setting(config, server, layout, find_recipe(args.weights), args.kv, args.mtp),
        find_profile(args.engine, server.device),
        Load(args.input, args.output, args.length_range, args.concurrency, requests),
        args.acceptance if args.mtp else 0.0,
        args.memory_fraction,
    )


def _tokens(text: str) -> int:
    return whole_number(text, 1, MOST_TOKENS)


def _answer(text: str) -> int:
    return whole_number(text, 2, MOST_TOKENS)  # TPOT needs two


def _concurrency(text: str) -> int:
    return whole_number(text, 1, MOST_CONCURRENCY)


def _requests(text: str) -> int:
    return whole_number(text, 1, MOST_REQUESTS)


def _drafts(text: str) -> int:
    return whole_number(text, 0, 16)


def _share(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = 0.0
    if not 0 < value <= 1:
        raise argparse.ArgumentTypeError(f"{text[:40]!r}, expected a share above 0 and up to 1, such as 0.8")
    return value
