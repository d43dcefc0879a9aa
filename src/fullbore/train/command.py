"""``fullbore train demo``: make the bundled demo model again, from a seed."""

import argparse
import json
import os
import tempfile
from pathlib import Path

from fullbore.errors import FullboreError, UsageError

HELD_OUT_QUESTIONS = 1000


def configure(parser: argparse.ArgumentParser) -> None:
    """Flags of ``fullbore train``."""
    parser.add_argument("recipe", choices=["demo"], help="what to train: the bundled demo model")
    parser.add_argument("--out", type=Path, required=True, metavar="DIR", help="folder for the checkpoint")
    parser.add_argument(
        "--steps", type=int, metavar="N", help="steps in all (default: those of the bundled model)"
    )
    parser.add_argument(
        "--seed", type=int, default=1, metavar="S", help="seed of text and weights (default 1)"
    )
    parser.add_argument("--threads", type=int, default=0, metavar="N", help="CPU threads (default: all)")


def run(args: argparse.Namespace) -> int:
    """Train, write the checkpoint, and print the exact answers per kind on held-out questions.

    Progress is kept in ``DIR.state.safetensors`` beside the folder: the same command continues from it.
    """
    if args.steps is not None and args.steps < 1:
        raise UsageError(f"--steps {args.steps} must be at least 1")
    try:
        import torch

        from fullbore.train.demo import Recipe, Trainer, train
        from fullbore.train.report import held_out_report
    except ModuleNotFoundError as error:
        raise FullboreError(
            f"training needs the package {error.name}, which is not installed: pip install 'fullbore[train]'"
        ) from error

    if args.threads:
        torch.set_num_threads(args.threads)
    torch.set_flush_denormal(True)
    recipe = Recipe(seed=args.seed)
    if args.steps is not None:
        recipe = recipe.shortened(args.steps)
    trainer = Trainer(recipe)
    state = args.out.with_name(args.out.name + ".state.safetensors")
    state.parent.mkdir(parents=True, exist_ok=True)
    if state.exists():
        trainer.resume(state)
        print(f"continuing {state} at step {trainer.step}", flush=True)
    train(trainer, state, lambda line: print(line, flush=True))
    args.out.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=args.out.parent) as fresh:
        trainer.export(Path(fresh))
        print(f"asking {HELD_OUT_QUESTIONS} held-out questions", flush=True)
        facts = held_out_report(Path(fresh), trainer, HELD_OUT_QUESTIONS)
        (Path(fresh) / "training.json").write_text(json.dumps(facts, indent=2) + "\n", "utf-8")
        for path in Path(fresh).iterdir():
            os.replace(path, args.out / path.name)
    state.unlink()
    print(f"wrote {args.out}: {facts['bytes'] / 1e6:.1f} MB, {facts['exact_percent']:.1f} % exact answers")
    for kind, figures in facts["exact_by_kind"].items():
        print(f"  {kind:16} {figures}")
    return 0
