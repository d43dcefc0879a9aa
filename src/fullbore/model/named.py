"""A configuration by the name that a user gives: a preset, a checkpoint's folder, or a config.json."""

import copy
from pathlib import Path

from fullbore.errors import UsageError, did_you_mean
from fullbore.model.config import ModelConfig, load_config, parse_config
from fullbore.model.files import read_object
from fullbore.model.presets import PRESETS

DEEPSEEK_V3 = "deepseek-v3"  # the 671B model; R1 is the same network


def named_config(source: str) -> ModelConfig:
    """UsageError where ``source`` is none of these; ConfigError where the file is no such model's."""
    if source in PRESETS:
        return parse_config(copy.deepcopy(dict(PRESETS[source])))
    path = Path(source)
    if path.is_dir():
        return load_config(path)
    if not path.is_file():
        raise UsageError(
            f"--config {source}: neither a file nor a preset{did_you_mean(source, PRESETS)}; "
            f"the presets are {', '.join(PRESETS)}"
        )
    return parse_config(read_object(path), str(path))
