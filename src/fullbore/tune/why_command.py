"""``fullbore inspect why OPERATOR``: which kernel computes it, which do not, and what that rests on."""

import argparse
import os

from fullbore.errors import UsageError, did_you_mean
from fullbore.hardware.device import find_device
from fullbore.tune.options import add_flags, count, setting


def configure(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("operator", metavar="OPERATOR", help="linear, moe_ffn, mla_decode, ...")
    add("--tokens", type=count, default=1, metavar="N", help="in one call (default: 1)")
    add("--model", default="demo", metavar="MODEL", help="whose shapes are meant (default: demo)")
    add_flags(parser)


def run(args: argparse.Namespace) -> int:
    os.environ.setdefault("OMP_WAIT_POLICY", "passive")
    from fullbore.ops.operators import OPERATORS
    from fullbore.tune.session import Session
    from fullbore.tune.why import explain

    if args.operator not in OPERATORS:
        raise UsageError(
            f"unknown operator {args.operator!r}{did_you_mean(args.operator, OPERATORS)}; expected one of "
            f"{', '.join(OPERATORS)} (to inspect a model in a folder called why: fullbore inspect ./why)"
        )
    session = Session.of(
        args.model,
        args.dtype,
        setting(args),
        args.weights,
        args.kv_cache_dtype,
        find_device(args.device),
    )
    selection, tuned = session.selection(args.by_tokens)
    evidence = tuned.evidence(session.work, session.registry)
    chosen = [choice for job, choice in selection.choices.items() if job.operator == args.operator]
    if not chosen:
        raise UsageError(f"{args.model} has no {args.operator} (name another --model)")
    print("\n\n".join("\n".join(explain(choice, evidence, args.tokens)) for choice in chosen))
    return 0
