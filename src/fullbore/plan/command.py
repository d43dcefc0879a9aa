"""``fullbore plan``: what a server will carry, how to run it, and what would change that."""

import argparse
import json
from collections.abc import Iterator

from fullbore import screen
from fullbore.errors import UsageError
from fullbore.flags import duration, whole_number
from fullbore.parallel.layout import check_layout, parse_layout
from fullbore.plan.answer import Answer, Company, answer, as_json
from fullbore.plan.arguments import (
    MOST_DRAFTS,
    add_memory,
    add_server,
    check_drafts,
    counts,
    model_name,
    number,
    server_of,
    share,
    words,
)
from fullbore.plan.demand import demand_of
from fullbore.plan.launch import launchable
from fullbore.plan.next_steps import NextStep, next_steps, way_flags
from fullbore.plan.page import page
from fullbore.plan.people import MOST_PEOPLE, Habits
from fullbore.plan.plots import plan_sheet
from fullbore.plan.search import search
from fullbore.plan.space import USUAL_CHUNKS, Space, layouts_of, trials, usual_recipes
from fullbore.plan.staffing import INSIDE
from fullbore.results.files import check_writable, replace_file
from fullbore.scenario.scenario import PERCENTILES, load_scenario, scenario_names
from fullbore.steptime.network import CACHE_BYTES, RECIPES, find_recipe

_SCENARIOS = ("dialog", "code")
_SHARES = (0.05, 0.1, 0.2)
_HOURLY = (6.0, 12.0, 30.0)
_HERE = (
    "--server is missing, and this machine cannot be planned for yet: its step times are measured, and the "
    "planner does not read them; measure with `fullbore bench` instead, or name a server such as "
    "--server 8xMI300X"
)


def configure(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add_server(add, required=False)
    add("--json", action="store_true", help="print one JSON object")
    add("--html", default="", metavar="FILE", help="write one page with plots there")
    asked = parser.add_argument_group("what is asked of it")
    asked.add_argument(
        "--scenario",
        type=words,
        default=_SCENARIOS,
        metavar="NAME,...",
        help=f"{', '.join(scenario_names())} or .toml files (default: {','.join(_SCENARIOS)})",
    )
    asked.add_argument(
        "--tpot", type=duration, metavar="T", help="limit such as 93ms (default: the scenario's)"
    )
    asked.add_argument(
        "--ttft", type=duration, metavar="T", help="limit such as 2.01s (default: the scenario's)"
    )
    asked.add_argument(
        "--percentile", choices=PERCENTILES, help="that limits judge (default: the scenario's)"
    )
    asked.add_argument(
        "--length-range",
        type=share,
        default=1.0,
        metavar="R",
        help="lengths are uniform from R times to once the scenario's (default 1: all alike)",
    )
    space = parser.add_argument_group("what may be chosen (lists with commas)")
    space.add_argument("--layout", type=words, metavar="L,...", help="such as tp8,ep8dp8 (default: all)")
    space.add_argument(
        "--weights",
        type=words,
        metavar="F,...",
        help=f"{', '.join(RECIPES)} (default: fp8, and fp4 on devices that multiply it)",
    )
    space.add_argument("--kv", type=words, default=tuple(CACHE_BYTES), metavar="F,...", help="bf16, fp8")
    space.add_argument(
        "--chunk",
        type=counts(1),
        metavar="N,...",
        help="prompt tokens a step (default: the engine's, 2048, 8192)",
    )
    space.add_argument(
        "--running", type=counts(1), metavar="N,...", help="requests at once (default: the engine's)"
    )
    space.add_argument(
        "--mtp", type=counts(0, MOST_DRAFTS), default=(0,), metavar="N,...", help="drafts (default 0)"
    )
    space.add_argument("--acceptance", type=share, metavar="P", help="of a draft; needed with --mtp")
    add_memory(space.add_argument)
    people = parser.add_argument_group("people")
    people.add_argument("--people", type=_people, metavar="N", help="of the company: how many servers?")
    people.add_argument("--active", type=share, metavar="SHARE", help="of them, in the busy hour")
    people.add_argument("--requests-per-hour", type=_hourly, metavar="R", help="of each active person")
    people.add_argument(
        "--inside",
        type=share,
        default=INSIDE,
        metavar="SHARE",
        help="of requests in the limits (%(default)s)",
    )
    parser.add_argument(
        "--command",
        type=words,
        metavar="ENGINE,...",
        help=f"print how to start {', '.join(launchable())} (default: the engine planned for)",
    )


def run(args: argparse.Namespace) -> int:
    if args.html:
        check_writable(args.html, "--html")
    found = plan_from(args)
    if args.html:
        replace_file(args.html, plan_sheet(found, _next_steps(found, args)))
    if args.json:
        print(json.dumps(as_json(found), indent=1))
    else:
        screen.console(100, 140).print(page(found))
    return 0


def _next_steps(found: Answer, args: argparse.Namespace) -> Iterator[NextStep]:
    trial = found.trial
    profile = trial.profile
    way = way_flags(
        trial.setting, profile.engine, profile.epoch, profile.policy, trial.held.used_share, trial.acceptance
    )
    names = dict.fromkeys(args.scenario)
    return next_steps(
        way,
        [(name, each.demand, each.best.concurrency) for name, each in zip(names, found.parts, strict=True)],
    )


def plan_from(args: argparse.Namespace) -> Answer:
    """The answer to what the arguments ask."""
    if args.server is None:
        raise UsageError(_HERE)
    config, server, profile = server_of(args)
    demands = [
        demand_of(load_scenario(name), args.length_range, _ms(args.tpot), _ms(args.ttft), args.percentile)
        for name in dict.fromkeys(args.scenario)
    ]
    drafts = tuple(args.mtp)
    check_drafts(max(drafts), config, model_name(args))
    if any(drafts) and args.acceptance is None:
        raise UsageError("--mtp needs --acceptance P, the share of drafts that are right in your texts")
    engines = args.command or ([profile.engine] if profile.engine in launchable() else [])
    for engine in engines:
        if engine not in launchable():
            raise UsageError(f"--command {engine}: expected one of {', '.join(launchable())}")
    layouts = [parse_layout(text) for text in args.layout] if args.layout else layouts_of(config, server)
    for layout in layouts:
        check_layout(layout, config, server.count)
    for kv in args.kv:
        if kv not in CACHE_BYTES:
            raise UsageError(f"--kv {kv}: expected {' or '.join(CACHE_BYTES)}")
    space = Space(
        layouts,
        [find_recipe(name) for name in args.weights] if args.weights else usual_recipes(server),
        args.kv,
        args.chunk or USUAL_CHUNKS,
        running=args.running or (0,),
        drafts=drafts,
        acceptance=args.acceptance or 0.0,
        used_share=args.memory_fraction,
    )
    habits = [
        Habits(share, hourly)
        for share in ([args.active] if args.active else _SHARES)
        for hourly in ([args.requests_per_hour] if args.requests_per_hour else _HOURLY)
    ]
    if args.inside == 1:
        raise UsageError(
            "--inside 1: with chance in play no number of people is always inside; expected below 1"
        )
    found = search(trials(config, server, profile, space, demands), demands)
    return answer(found, demand_of(load_scenario("peak")), Company(habits, args.people, args.inside), engines)


def _ms(seconds: float | None) -> float | None:
    return None if seconds is None else seconds * 1e3


def _people(text: str) -> int:
    return whole_number(text, 1, MOST_PEOPLE)


def _hourly(text: str) -> float:
    return number(text, 3600.0, "a number above 0 and up to 3600, such as 12")
