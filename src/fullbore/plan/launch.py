"""The command that starts an engine as a plan says, with the flags that its documentation names."""

import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from fullbore.plan.trial import Trial

_FILE = Path(__file__).with_name("launch.toml")
MODEL = "deepseek-ai/DeepSeek-R1-0528"
_CHECKPOINT = "fp8"  # what MODEL holds


@dataclass(frozen=True)
class Launch:
    """``command`` is empty where the engine has no flags for it; ``notes`` say why, and what to know."""

    engine: str
    command: str
    source: str  # where the flags are documented
    notes: tuple[str, ...]


def launchable() -> list[str]:
    """Engines whose flags are known."""
    return list(_read())


def launch(engine: str, trial: Trial, running: int, model: str = MODEL) -> Launch:
    """How ``engine`` is started as ``trial`` says, with at most ``running`` requests at once."""
    table = _read()[engine]
    setting, layout = trial.setting, trial.setting.layout
    notes = [table["note"]] if "note" in table else []
    missing = _missing(table, trial)
    if missing:
        return Launch(engine, "", table["source"], (f"no command: {missing}", *notes))
    if setting.recipe.name != _CHECKPOINT:
        notes.append(f"MODEL stands for a checkpoint in {setting.recipe.name}; {model} is in {_CHECKPOINT}")
        model = "MODEL"
    parts = [table["start"], table["tp"]]
    parts += [table["dp"]] if layout.dp > 1 else []
    parts += [table["ep"]] if layout.ep > 1 else []
    parts += [table[name] for name in ("kv", "chunk", "running", "memory") if name in table]
    groups = layout.dp if table.get("per_group") else 1
    policy = trial.profile.policy.over(layout.dp)
    values = {
        "model": model,
        "devices": layout.devices,
        "tp": layout.tp,
        "dp": layout.dp,
        "ep": layout.ep,
        "kv": table["kv_names"][setting.cache],
        "chunk": -(-policy.chunk_tokens // groups),
        "running": -(-min(running, policy.most_running) // groups),
        "memory": trial.held.used_share,
    }
    return Launch(engine, " ".join(parts).format_map(values), table["source"], tuple(notes))


def _missing(table: Mapping[str, Any], trial: Trial) -> str:
    """What the engine's known flags cannot say."""
    layout = trial.setting.layout
    if trial.setting.drafts:
        return f"the flags of {table['title']} for MTP were not checked"
    if layout.dp > 1 and "dp" not in table:
        return f"{table['title']} has no data-parallel attention"
    if layout.ep > 1 and "ep" not in table:
        return f"{table['title']} has no expert parallelism"
    if layout.ep not in (1, layout.devices) and not table["any_ep"]:
        return f"{table['title']} spreads whole experts over all {layout.devices} devices or over none"
    return ""


@cache
def _read() -> dict[str, Any]:
    return tomllib.loads(_FILE.read_text(encoding="utf-8"))
