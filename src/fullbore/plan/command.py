"""``fullbore plan``: what a server will carry, how to run it, and what would change that."""

import argparse
import json
from collections.abc import Callable
from fractions import Fraction

from fullbore import screen
from fullbore.engine.first_tune import MODES
from fullbore.errors import UsageError
from fullbore.flags import duration, whole_number
from fullbore.hardware.catalogue import catalogue
from fullbore.hardware.servers import find_server
from fullbore.model.named import DEEPSEEK_V3, named_config
from fullbore.plan.answer import Answer, Company, answer, as_json
from fullbore.plan.command_here import HERE, plan_here
from fullbore.plan.demand import Demand, demand_of
from fullbore.plan.launch import launch, launchable
from fullbore.plan.memory import MOST_SHARE, USUAL_SHARE
from fullbore.plan.page import page
from fullbore.plan.people import MOST_PEOPLE, Habits
from fullbore.plan.search import search
from fullbore.plan.space import USUAL_CHUNKS, Space, layouts_of, trials, usual_recipes
from fullbore.plan.staffing import INSIDE
from fullbore.scenario.scenario import PERCENTILES, load_scenario, scenario_names
from fullbore.steptime.layout import check_layout, parse_layout
from fullbore.steptime.network import CACHE_BYTES, RECIPES, find_recipe
from fullbore.steptime.profiles import find_profile

_SCENARIOS = ("dialog", "code")
_SHARES = (0.05, 0.1, 0.2)
_HOURLY = (6.0, 12.0, 30.0)


def configure(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    known = ", ".join(device.name for device in catalogue())
    add(
        "--server",
        default=HERE,
        metavar="NxDEVICE",
        help=f"such as 8xMI300X (default: {HERE}, this machine); devices: {known}",
    )
    add("--engine", metavar="NAME[@VERSION]", help="fullbore (default), sglang or trtllm")
    add(
        "--config",
        metavar="NAME|FILE",
        help=f"the model of a server that is not here (default {DEEPSEEK_V3})",
    )
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
        "--scale", type=_scale, default=Fraction(1), metavar="S", help="of all lengths, such as 1/8"
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
        help=f"{', '.join(RECIPES)} (default: fp8, and fp4 on devices that multiply it); here as in serve",
    )
    space.add_argument(
        "--kv", type=_words, metavar="F,...", help="bf16, fp8 (default: both; here what is computed)"
    )
    space.add_argument(
        "--chunk",
        type=_counts(1),
        metavar="N,...",
        help="prompt tokens a step (default: the engine's, 2048, 8192; here 256 to 2048 tokens in all)",
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
    here = parser.add_argument_group("this machine")
    here.add_argument(
        "--model", metavar="MODEL", help="as fullbore serve takes it (default: demo); its kernels are timed"
    )
    here.add_argument(
        "--tune",
        choices=MODES,
        default="auto",
        help="time kernels first; auto: where times are missing (default: auto)",
    )
    here.add_argument("--threads", type=_threads, default=0, metavar="N", help="(default: every core)")
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
    demands = [_demand(name, args) for name in dict.fromkeys(args.scenario)]
    peak = demand_of(load_scenario("peak").scaled(args.scale))
    if args.server.lower() == HERE:
        args.model = args.model or "demo"
        return plan_here(args, demands, peak, _company(args))
    if args.model or args.threads:
        raise UsageError(
            f"--{'model' if args.model else 'threads'} is for this machine; the model of {args.server} is "
            "--config (leave out one of them)"
        )
    args.config = args.config or DEEPSEEK_V3
    config, server = named_config(args.config), find_server(args.server)
    profile = find_profile(args.engine or "fullbore", server.device)
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
    caches = args.kv or tuple(CACHE_BYTES)
    for kv in caches:
        if kv not in CACHE_BYTES:
            raise UsageError(f"--kv {kv}: expected {' or '.join(CACHE_BYTES)}")
    space = Space(
        layouts,
        [find_recipe(name) for name in args.weights] if args.weights else usual_recipes(server),
        caches,
        args.chunk or USUAL_CHUNKS,
        running=args.running or (0,),
        drafts=drafts,
        acceptance=args.acceptance or 0.0,
        used_share=args.memory_fraction,
    )
    found = search(trials(config, server, profile, space, demands), demands)
    return answer(
        found,
        peak,
        _company(args),
        lambda trial, running: tuple(launch(engine, trial, running) for engine in engines),
    )


def _demand(name: str, args: argparse.Namespace) -> Demand:
    scenario = load_scenario(name).scaled(args.scale)
    return demand_of(scenario, args.length_range, _ms(args.tpot), _ms(args.ttft), args.percentile)


def _company(args: argparse.Namespace) -> Company:
    if args.inside == 1:
        raise UsageError(
            "--inside 1: with chance in play no number of people is always inside; expected below 1"
        )
    habits = [
        Habits(share, hourly)
        for share in ([args.active] if args.active else _SHARES)
        for hourly in ([args.requests_per_hour] if args.requests_per_hour else _HOURLY)
    ]
    return Company(habits, args.people, args.inside)


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


def _threads(text: str) -> int:
    return whole_number(text, 1, 4096)


def _scale(text: str) -> Fraction:
    try:
        scale = Fraction(text)
    except (ValueError, ZeroDivisionError):
        scale = Fraction(0)
    if not 0 < scale <= 1000:
        raise argparse.ArgumentTypeError(f"{text[:40]!r}, expected a factor such as 1/8")
    return scale


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
