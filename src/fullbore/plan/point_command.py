"""``fullbore plan point``: what a server will do at one concurrency, before it is bought."""

import argparse
import json
import math

from fullbore import screen
from fullbore.errors import UsageError
from fullbore.flags import whole_number
from fullbore.plan.arguments import MOST_COUNT, add_server, add_way, count, share, way_of
from fullbore.plan.closed_loop import Load
from fullbore.plan.demand import REQUESTS_PER_SLOT, Demand
from fullbore.plan.launch import launch, launchable
from fullbore.plan.next_steps import next_steps, way_flags
from fullbore.plan.plots import point_sheet
from fullbore.plan.point import Point, as_json, predict
from fullbore.plan.point_page import page
from fullbore.plan.trial import Trial
from fullbore.results.files import check_writable, replace_file
from fullbore.scenario.arrival import MOST_CONCURRENCY
from fullbore.scenario.lengths import MOST_TOKENS
from fullbore.scenario.scenario import Limits


def configure(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add_server(add)
    add_way(add)
    add("--input", type=_tokens, required=True, metavar="N", help="tokens of a prompt, at most")
    add("--output", type=_answer, required=True, metavar="N", help="tokens of an answer, at most")
    add(
        "--length-range",
        type=share,
        default=1.0,
        metavar="R",
        help="lengths are uniform from R times to once the stated ones (default 1: all alike)",
    )
    add("--concurrency", type=_concurrency, required=True, metavar="N", help="requests in flight")
    add("--requests", type=count, metavar="N", help=f"in all (default {REQUESTS_PER_SLOT} a slot)")
    add("--json", action="store_true", help="print one JSON object")
    add("--html", default="", metavar="FILE", help="write one page with plots there")


def run(args: argparse.Namespace) -> int:
    if args.html:
        check_writable(args.html, "--html")
    point = predict_from(args)
    if args.html:
        replace_file(args.html, _sheet(point))
    if args.json:
        print(json.dumps(as_json(point), indent=1))
    else:
        screen.console(80, 110).print(page(point))
    return 0


def _sheet(point: Point) -> str:
    trial = Trial(point.setting, point.profile, point.memory, point.acceptance)
    engine = point.profile.engine
    launches = [launch(engine, trial, point.load.concurrency)] if engine in launchable() else []
    load, profile = point.load, point.profile
    way = way_flags(
        point.setting, engine, profile.epoch, profile.policy, point.memory.used_share, point.acceptance
    )
    demand = Demand(
        "point", load.input_tokens, load.output_tokens, load.length_range, Limits(math.inf, math.inf)
    )
    return point_sheet(point, launches, next_steps(way, [("", demand, load.concurrency)]))


def predict_from(args: argparse.Namespace) -> Point:
    """The point that the arguments describe."""
    way = way_of(args)
    config = way.setting.config
    requests = args.requests or min(MOST_COUNT, REQUESTS_PER_SLOT * args.concurrency)
    if args.input + args.output > config.max_position_embeddings:
        raise UsageError(
            f"--input {args.input} and --output {args.output} are {args.input + args.output} tokens; the "
            f"model has {config.max_position_embeddings} positions"
        )
    load = Load(args.input, args.output, args.length_range, args.concurrency, requests)
    return predict(way.setting, way.profile, load, way.acceptance, way.used_share)


def _tokens(text: str) -> int:
    return whole_number(text, 1, MOST_TOKENS)


def _answer(text: str) -> int:
    return whole_number(text, 2, MOST_TOKENS)  # TPOT needs two


def _concurrency(text: str) -> int:
    return whole_number(text, 1, MOST_CONCURRENCY)
