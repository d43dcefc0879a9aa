"""The flags that ``tune`` and ``inspect why`` share."""

import argparse

from fullbore.hardware.device import DEVICES, find_device
from fullbore.model.weights import add_weights_flag
from fullbore.ops.setting import KV_CACHE_DTYPES, Setting


def add_flags(parser: argparse.ArgumentParser) -> None:
    """For what kernels are chosen."""
    add = parser.add_argument
    add(
        "--scenario", default="dialog", metavar="NAME", help="dialog, code, or a .toml file (default: dialog)"
    )
    add("--concurrency", type=count, default=0, metavar="N",
        help="requests in flight (default: the scenario's, at most 64)")  # fmt: skip
    add("--dtype", choices=("auto", "float32", "bfloat16"), default="auto")
    add_weights_flag(add)
    add("--kv-cache-dtype", choices=tuple(KV_CACHE_DTYPES), default="auto",
        help="of the paged cache (default: auto, as computed)")  # fmt: skip
    add("--device", choices=DEVICES, default="auto",
        help="cuda is AMD's GPUs too (default: a GPU where there is one)")  # fmt: skip
    add("--threads", type=count, default=0, metavar="N", help="(default: every core)")
    add("--by-tokens", action="store_true",
        help="let kernels differ by a step's tokens (a token's bits then depend on its company)")  # fmt: skip


def setting(args: argparse.Namespace) -> Setting:
    """What the flags say."""
    kind = find_device(args.device).kind
    return Setting.of(args.scenario, args.concurrency, args.threads, device=kind)


def count(text: str) -> int:
    """A whole number of at least 1."""
    if not text.isdecimal() or not 1 <= int(text) < 2**31:
        raise argparse.ArgumentTypeError(f"{text[:40]!r}, expected a whole number from 1 on")
    return int(text)
