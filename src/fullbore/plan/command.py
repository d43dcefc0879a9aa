"""``fullbore plan``: what a server will carry, how to run it, and what would change that."""

import argparse
import json
from collections.abc import Callable

from fullbore import screen
from fullbore.errors import UsageError
from fullbore.flags import duration, whole_number
from fullbore.hardware.catalogue import catalogue
from fullbore.hardware.servers import find_server
from fullbore.model.named import DEEPSEEK_V3, named_config
from fullbore.plan.answer import Answer, Company, answer, as_json
from fullbore.plan.demand import demand_of
from fullbore.plan.launch import launchable
from fullbore.plan.memory import MOST_SHARE, USUAL_SHARE
from fullbore.plan.page import page
from fullbore.plan.people import MOST_PEOPLE, Habits
from fullbore.plan.search import search
from fullbore.plan.space import USUAL_CHUNKS, Space, layouts_of, trials, usual_recipes
from fullbore.plan.staffing import INSIDE
from fullbore.scenario.scenario import PERCENTILES, load_scenario, scenario_names
from fullbore.steptime.layout import check_layout, parse_layout
from fullbore.steptime.network import CACHE_BYTES, RECIPES, find_recipe
from fullbore.steptime.profiles import engine_names, find_profile

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
    known = ", ".join(device.name for device in catalogue())
    add("--server", metavar="NxDEVICE", help=f"such as 8xMI300X; devices: {known}")
    add("--engine", default="fullbore", metavar="NAME[@VERSION]", help=", ".join(engine_names()))
    add("--config", default=DEEPSEEK_V3, metavar="NAME|FILE", help="the model (default %(default)s)")
    add("--json", action="store_true", help="print one JSON object")
    asked = parser.add_argument_group("what is asked of it")
    asked.add_argument(
        "--scenario",
        type=_words,
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
        type=_share,
        default=1.0,
        metavar="R",
        help="lengths are uniform from R times to once the scenario's (default 1: all alike)",
    )
    space = parser.add_argument_group("what may be chosen (lists with commas)")
    space.add_argument("--layout", type=_words, metavar="L,...", help="such as tp8,ep8dp8 (default: all)")
    space.add_argument(
        "--weights",
        type=_words,
        metavar="F,...",
        help=f"{', '.join(RECIPES)} (default: fp8, and fp4 on devices that multiply it)",
    )
    space.add_argument("--kv", type=_words, default=tuple(CACHE_BYTES), metavar="F,...", help="bf16, fp8")
    space.add_argument(
        "--chunk",
        type=_counts(1),
        metavar="N,...",
        help="prompt tokens a step (default: the engine's, 2048, 8192)",
    )
    space.add_argument(
        "--running", type=_counts(1), metavar="N,...", help="requests at once (default: the engine's)"
    )
    space.add_argument("--mtp", type=_counts(0), default=(0,), metavar="N,...", help="drafts (default 0)")
    space.add_argument("--acceptance", type=_share, metavar="P", help="of a draft; needed with --mtp")
    space.add_argument(
        "--memory-fraction",
        type=_share,
        metavar="F",
        help=f"of each device in use (default {USUAL_SHARE}, {MOST_SHARE} where that is needed)",
    )
    people = parser.add_argument_group("people")
    people.add_argument("--people", type=_people, metavar="N", help="of the company: how many servers?")
    people.add_argument("--active", type=_share, metavar="SHARE", help="of them, in the busy hour")
    people.add_argument("--requests-per-hour", type=_hourly, metavar="R", help="of each active person")
    people.add_argument(
        "--inside",
        type=_share,
        default=INSIDE,
        metavar="SHARE",
        help="of requests in the limits (%(default)s)",
    )
    parser.add_argument(
        "--command",
        type=_words,
        metavar="ENGINE,...",
        help=f"print how to start {', '.join(launchable())} (default: the engine planned for)",
    )


def run(args: argparse.Namespace) -> int:
    found = plan_from(args)
    if args.json:
        print(json.dumps(as_json(found), indent=1))
    else:
        screen.console(100, 140).print(page(found))
    return 0


def plan_from(args: argparse.Namespace) -> Answer:
    """The answer to what the arguments ask."""
    if args.server is None:
        raise UsageError(_HERE)
    config, server = named_config(args.config), find_server(args.server)
    profile = find_profile(args.engine, server.device)
    demands = [
        demand_of(load_scenario(name), args.length_range, _ms(args.tpot), _ms(args.ttft), args.percentile)
        for name in dict.fromkeys(args.scenario)
    ]
    drafts = tuple(args.mtp)
    if any(drafts) and not config.num_nextn_predict_layers:
        raise UsageError(f"--mtp: {args.config} has no MTP layer (leave the flag out)")
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


def _words(text: str) -> tuple[str, ...]:
    words = tuple(word.strip() for word in text.split(","))
    if not all(words):
        raise argparse.ArgumentTypeError(f"{text[:40]!r}, expected words with commas between them")
    return words


def _counts(least: int) -> Callable[[str], tuple[int, ...]]:
    def read(text: str) -> tuple[int, ...]:
        most = 1_000_000 if least else 16
        return tuple(dict.fromkeys(whole_number(word, least, most) for word in text.split(",")))

    return read


def _people(text: str) -> int:
    return whole_number(text, 1, MOST_PEOPLE)


def _share(text: str) -> float:
    return _number(text, 1.0, "a share above 0 and up to 1, such as 0.8")


def _hourly(text: str) -> float:
    return _number(text, 3600.0, "a number above 0 and up to 3600, such as 12")


def _number(text: str, most: float, expected: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = 0.0
    if not 0 < value <= most:
        raise argparse.ArgumentTypeError(f"{text[:40]!r}, expected {expected}")
    return value
