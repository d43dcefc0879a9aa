"""What a finished run is: its recipe, its effort, its size and its exact answers."""

from dataclasses import asdict
from pathlib import Path
from typing import Any

from fullbore.train.demo import Trainer, model_config
from fullbore.train.evaluate import accuracy
from fullbore.train.export import fill, read_weights
from fullbore.train.network import DemoNetwork

EVALUATION_SEED = 7


def held_out_report(folder: Path, trainer: Trainer, count: int, show: int = 10) -> dict[str, Any]:
    """Ask ``count`` held-out questions of the checkpoint in ``folder``, as stored; all facts of the run."""
    network = DemoNetwork(model_config(trainer.recipe), 0)
    fill(network, read_weights(folder))
    kinds = accuracy(network.eval(), trainer.tokenizer, count, EVALUATION_SEED, show)
    exact = sum(right for right, _ in kinds.values())
    return {
        "recipe": asdict(trainer.recipe),
        "steps": trainer.step,
        "tokens": trainer.tokens,
        "seconds": round(trainer.seconds),
        "parameters": sum(weight.numel() for weight in trainer.network.parameters()),
        "bytes": sum(path.stat().st_size for path in folder.iterdir()),
        "exact_percent": round(100 * exact / count, 2),
        "exact_by_kind": {kind: f"{right} of {asked}" for kind, (right, asked) in sorted(kinds.items())},
    }
