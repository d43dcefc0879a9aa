"""The flags that name a server, an engine and a way to run a model: the same words in every verb here."""

import argparse
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from fullbore.errors import UsageError
from fullbore.flags import whole_number
from fullbore.hardware.catalogue import catalogue, with_file
from fullbore.hardware.servers import Server, find_server
from fullbore.model.config import ModelConfig
from fullbore.model.named import DEEPSEEK_V3, named_config
from fullbore.parallel.layout import Layout, parse_layout
from fullbore.plan.memory import MOST_SHARE, USUAL_SHARE
from fullbore.steptime.model import Setting
from fullbore.steptime.network import CACHE_BYTES, RECIPES, find_recipe
from fullbore.steptime.profiles import Profile, find_profile

MOST_COUNT = 1_000_000
MOST_DRAFTS = 16


@dataclass(frozen=True)
class Way:
    """One way to run a model. acceptance: of a draft, 0 without MTP. used_share: of each device's memory;
    None: the usual one."""

    setting: Setting
    profile: Profile
    acceptance: float
    used_share: float | None


def add_server(add: Callable[..., Any], default: str | None = None, required: bool = True) -> None:
    """What is run on what. ``add``: ``add_argument`` of a parser or a group. default: where no server is
    named."""
    known = ", ".join(device.name for device in catalogue())
    add(
        "--server",
        required=required,
        default=default,
        metavar="NxDEVICE",
        help=f"such as 8xMI300X{f' (default: {default})' if default else ''}; devices: {known}",
    )
    add(
        "--catalogue",
        type=Path,
        metavar="FILE",
        help="more devices and servers, as fullbore inspect machine --write makes them",
    )
    add("--engine", default="fullbore", metavar="NAME[@VERSION]", help="fullbore, sglang or trtllm")
    add("--config", metavar="NAME|FILE", help=f"the model (default {DEEPSEEK_V3})")


def add_way(add: Callable[..., Any]) -> None:
    """How it is run, one way."""
    add("--weights", default="fp8", metavar="FORMAT", help=f"{', '.join(RECIPES)} (default %(default)s)")
    add(
        "--kv",
        "--kv-cache-dtype",
        default="bf16",
        choices=tuple(CACHE_BYTES),
        help="cache (default %(default)s)",
    )
    add("--layout", metavar="LAYOUT", help="such as tp8, ep8dp8 or tp8ep8 (default: tp over all devices)")
    add("--chunk", type=count, metavar="N", help="prompt tokens a step (default: the engine's)")
    add("--running", type=count, metavar="N", help="requests at once (default: the engine's)")
    add("--mtp", type=_drafts, default=0, metavar="N", help="tokens drafted in a step (default 0)")
    add("--acceptance", type=share, default=0.8, metavar="P", help="of a draft, with --mtp (default 0.8)")
    add_memory(add)


def add_memory(add: Callable[..., Any]) -> None:
    add(
        "--memory-fraction",
        "--gpu-memory-utilization",
        type=share,
        metavar="F",
        help=f"of each device's memory in use (default {USUAL_SHARE}, {MOST_SHARE} where that is needed)",
    )


def server_of(args: argparse.Namespace) -> tuple[ModelConfig, Server, Profile]:
    """What ``add_server`` asked for. UsageError for names that nobody knows."""
    table = with_file(args.catalogue) if args.catalogue else None
    config, server = named_config(model_name(args)), find_server(args.server, table)
    return config, server, find_profile(args.engine, server.device)


def model_name(args: argparse.Namespace) -> str:
    """Of ``--config``."""
    return str(args.config or DEEPSEEK_V3)


def way_of(args: argparse.Namespace) -> Way:
    """What ``add_server`` and ``add_way`` asked for. UsageError for what does not go together."""
    config, server, profile = server_of(args)
    check_drafts(args.mtp, config, model_name(args))
    policy = profile.policy
    policy = replace(
        policy,
        chunk_tokens=args.chunk or policy.chunk_tokens,
        most_running=args.running or policy.most_running,
    )
    layout = parse_layout(args.layout) if args.layout else Layout(tp=server.count)
    return Way(
        Setting(config, server, layout, find_recipe(args.weights), args.kv, args.mtp),
        replace(profile, policy=policy),
        args.acceptance if args.mtp else 0.0,
        args.memory_fraction,
    )


def check_drafts(drafts: int, config: ModelConfig, name: str) -> None:
    """UsageError where a model is asked for drafts that has no layer to make them."""
    if drafts and not config.num_nextn_predict_layers:
        raise UsageError(f"--mtp {drafts}: {name} has no MTP layer (leave the flag out)")


def count(text: str) -> int:
    """A flag that takes a whole number from 1."""
    return whole_number(text, 1, MOST_COUNT)


def counts(least: int, most: int = MOST_COUNT) -> Callable[[str], tuple[int, ...]]:
    """A flag that takes some of them, with commas between."""

    def read(text: str) -> tuple[int, ...]:
        return tuple(dict.fromkeys(whole_number(word, least, most) for word in text.split(",")))

    return read


def words(text: str) -> tuple[str, ...]:
    """A flag that takes names, with commas between."""
    found = tuple(word.strip() for word in text.split(","))
    if not all(found):
        raise argparse.ArgumentTypeError(f"{text[:40]!r}, expected words with commas between them")
    return found


def share(text: str) -> float:
    """A flag that takes a part of a whole."""
    return number(text, 1.0, "a share above 0 and up to 1, such as 0.8")


def number(text: str, most: float, expected: str) -> float:
    """The value above 0 and up to ``most`` that ``text`` says; ArgumentTypeError for any other text."""
    try:
        value = float(text)
    except ValueError:
        value = 0.0
    if not 0 < value <= most:
        raise argparse.ArgumentTypeError(f"{text[:40]!r}, expected {expected}")
    return value


def _drafts(text: str) -> int:
    return whole_number(text, 0, MOST_DRAFTS)
