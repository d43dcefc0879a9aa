"""Where a served model's files are; of one with random weights they are made, in a folder that goes again."""

import json
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from fullbore.errors import UsageError
from fullbore.model.config import load_config
from fullbore.model.files import read_object
from fullbore.model.locate import locate
from fullbore.model.presets import PRESETS
from fullbore.model.random_tokenizer import SMALLEST, write_tokenizer


@contextmanager
def model_folder(name: str, random_weights: bool) -> Iterator[Path]:
    """A folder with config.json and a tokenizer. ``name``: as ``locate`` takes it, and with random weights
    also a preset or the path of a config.json.

    UsageError or CheckpointError where there is no such model.
    """
    path = Path(name).expanduser()
    preset = name in PRESETS and not path.is_dir()
    if not random_weights or not (preset or path.is_file()):
        if preset:
            raise UsageError(
                f"{name} is a configuration without weights; serve it with --random-weights, or write a "
                f"checkpoint first (fullbore make-checkpoint OUT --config {name})"
            )
        yield locate(name)
        return
    with tempfile.TemporaryDirectory(prefix="fullbore-") as made:
        folder = Path(made)
        fields = PRESETS[name] if preset else read_object(path)
        (folder / "config.json").write_text(json.dumps(dict(fields)), "utf-8")
        config = load_config(folder)
        if not write_tokenizer(folder, config):
            raise UsageError(
                f"{name} has vocab_size {config.vocab_size}, expected {SMALLEST} or more, as bytes are tokens"
            )
        yield folder
