"""``fullbore train demo``: make the bundled demo model again, from a seed."""

import argparse
import json
import os
import signal
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from threading import Event
from types import FrameType

from fullbore.errors import FullboreError, UsageError
from fullbore.flags import whole_number

HELD_OUT_QUESTIONS = 1000
STATE = "unfinished.safetensors"  # in DIR until the run is done


def configure(parser: argparse.ArgumentParser) -> None:
    """Flags of ``fullbore train``."""
    parser.add_argument("recipe", choices=["demo"], help="what to train: the bundled demo model")
    parser.add_argument("--out", type=Path, required=True, metavar="DIR", help="folder for the checkpoint")
    parser.add_argument(
        "--steps", type=_count, metavar="N", help="steps in all (default: those of the bundled model)"
    )
    parser.add_argument(
        "--seed", type=_seed, default=1, metavar="S", help="seed of text and weights (default 1)"
    )
    parser.add_argument("--threads", type=_count, default=0, metavar="N", help="CPU threads (default: all)")


def run(args: argparse.Namespace) -> int:
    """Train, write the checkpoint, and print the exact answers per kind on held-out questions.

    Progress is kept in ``DIR/unfinished.safetensors``: the same command continues from it. Ctrl-C ends after
    the step that is running.
    """
    out = args.out.resolve()
    state = out / STATE
    _prepare(out, state)
    try:
        import torch

        from fullbore.train.demo import Recipe, Trainer, check_recipe, train
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
        recipe = replace(recipe, steps=args.steps)
    if state.exists():
        check_recipe(state, recipe)
    trainer = Trainer(recipe)
    if state.exists():
        trainer.resume(state)
        print(f"continuing {state} at step {trainer.step}", flush=True)
    with _interrupt_after_step() as stop:
        train(trainer, state, lambda line: print(line, flush=True), stop=stop)
    with tempfile.TemporaryDirectory(dir=out, prefix=".") as fresh:
        trainer.export(Path(fresh))
        print(f"asking {HELD_OUT_QUESTIONS} held-out questions", flush=True)
        facts = held_out_report(Path(fresh), trainer, HELD_OUT_QUESTIONS)
        (Path(fresh) / "training.json").write_text(json.dumps(facts, indent=2) + "\n", "utf-8")
        for path in Path(fresh).iterdir():
            os.replace(path, out / path.name)
    state.unlink()
    print(f"wrote {out}: {facts['bytes'] / 1e6:.1f} MB, {facts['exact_percent']:.1f} % exact answers")
    for kind, figures in facts["exact_by_kind"].items():
        print(f"  {kind:16} {figures}")
    return 0


def _prepare(out: Path, state: Path) -> None:
    """Make ``out``, before hours are spent on what could not be written."""
    if out.exists() and not out.is_dir():
        raise UsageError(f"--out {out} is a file; give a folder to write")
    try:
        out.mkdir(parents=True, exist_ok=True)
        if not state.exists() and any(path.name != state.with_suffix(".part").name for path in out.iterdir()):
            raise UsageError(f"--out {out} is not empty, and holds no unfinished run; give another folder")
        with tempfile.TemporaryFile(dir=out):
            pass
    except OSError as error:
        raise UsageError(
            f"--out {out} cannot be written ({error.strerror}); give a folder of your own"
        ) from error


@contextmanager
def _interrupt_after_step() -> Iterator[Callable[[], bool]]:
    """Inside, the first Ctrl-C only makes the yielded function true; the second breaks off as usual."""
    asked = Event()

    def ask(number: int, frame: FrameType | None) -> None:
        asked.set()
        signal.signal(signal.SIGINT, before)
        print("ending after this step; the same command goes on from there", file=sys.stderr, flush=True)

    before = signal.signal(signal.SIGINT, ask)
    try:
        yield asked.is_set
    finally:
        signal.signal(signal.SIGINT, before)


def _count(text: str) -> int:
    return whole_number(text, 1, 10**9)


def _seed(text: str) -> int:
    return whole_number(text, 0, 2**63 - 1)  # what torch takes
