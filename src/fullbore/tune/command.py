"""``fullbore tune``: measure this machine's kernels for a model, choose for a scenario, share the times."""

import argparse
import os
import signal
import sys
from pathlib import Path

from fullbore.errors import UsageError
from fullbore.hardware.device import find_device
from fullbore.tune.options import add_flags, setting


def configure(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("model", metavar="MODEL", nargs="?",
        help="'demo', a checkpoint folder, or org/name from the Hugging Face cache")  # fmt: skip
    add_flags(parser)
    add("--thorough", action="store_true", help="every token count, many repeats (default: under a minute)")
    add("--again", action="store_true", help="also what was measured before (the machine was busy, say)")
    add("--only-choices", action="store_true", help="only where several kernels could do a job")
    add("--quiet", action="store_true", help="measure, and print nothing but troubles")
    add("--export", type=Path, metavar="FILE", help="write the table of times to FILE")
    add(
        "--import",
        dest="import_",
        type=Path,
        metavar="FILE",
        help="take in a table of a twin of this machine",
    )
    add("--merge", type=Path, nargs="+", default=[], metavar="FILE",
        help="tables to make one of: into --export FILE, else into this machine's")  # fmt: skip


def run(args: argparse.Namespace) -> int:
    # Waiting threads must sleep, as in the engine: two pools that spin keep each other from the cores.
    os.environ.setdefault("OMP_WAIT_POLICY", "passive")
    from fullbore.tune import share

    given = setting(args)
    sharing = bool(args.export or args.import_ or args.merge)
    if not args.model and not sharing:
        raise UsageError("which model? give MODEL (such as demo), or --import, --merge or --export a table")
    if args.merge and args.export and not args.model:
        share.merge(args.merge, args.export)
        return 0
    for path in [*([args.import_] if args.import_ else []), *args.merge]:
        share.take(path, given.store)
    if args.model:
        _tune(args)
    if args.export:
        share.export(given.store, args.export)
    return 0


def _tune(args: argparse.Namespace) -> None:
    # A caught end leaves no mark on the kernel at work, as one that ends the process by itself does.
    signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(128 + number))
    from fullbore.tune.session import Session

    session = Session.of(
        args.model,
        args.dtype,
        setting(args),
        args.weights,
        args.kv_cache_dtype,
        find_device(args.device),
    )
    session.measure(args.thorough, args.only_choices, args.again)
    if not args.quiet:
        session.report(args.by_tokens)
