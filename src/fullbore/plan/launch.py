"""The command that starts an engine as a plan says, with flags from its documents (``launch.toml``)."""

import shlex
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
    """``command`` is empty where the engine has no flags for it; ``notes`` say why, and what to know.

    ``sources``: the documents that its flags and limits were looked up in.
    """

    engine: str
    command: str
    sources: tuple[str, ...]
    notes: tuple[str, ...]


def launchable() -> list[str]:
    """Engines whose flags are known."""
    return list(flag_tables())


def launch(engine: str, trial: Trial, running: int, model: str = MODEL) -> Launch:
    """How ``engine`` is started as ``trial`` says, with at most ``running`` requests at once."""
    table = flag_tables()[engine]
    setting = trial.setting
    notes = [table["note"]] if "note" in table else []
    missing = _missing(table, trial)
    if missing:
        return Launch(engine, "", tuple(table["sources"].values()), (f"no command: {missing}", *notes))
    if setting.recipe.name != _CHECKPOINT:
        notes.append(f"MODEL stands for a checkpoint in {setting.recipe.name}; {model} is in {_CHECKPOINT}")
        model = "MODEL"
    values = _values(trial, running, model, table["kv_names"][setting.cache])
    if values["group_running"] > values["group_captured"]:
        notes.append(
            f"batches of more than {values['group_captured']} sequences are launched without a graph"
        )
    wanted = _wanted(trial)
    vendor = setting.server.device.vendor
    words = [f"{name}={value}" for name, value in table.get("environment", {}).get(vendor, {}).items()]
    words.append(table["start"].format_map(values))
    used = []
    for flag in table["flags"]:
        if wanted[flag.get("when", "")]:
            words.append(flag["name"])
            words += [shlex.quote(flag["value"].format_map(values))] if "value" in flag else []
            used.append(flag["source"])
    used += [vendor] if vendor in table["sources"] else []
    return Launch(
        engine, " ".join(words), tuple(table["sources"][name] for name in dict.fromkeys(used)), tuple(notes)
    )


def _values(trial: Trial, running: int, model: str, kv: str) -> dict[str, Any]:
    """What may be in braces. Limits of the server, and of one of its data-parallel groups."""
    setting, policy, held = trial.setting, trial.profile.policy, trial.held
    layout, verified = setting.layout, 1 + setting.drafts
    running = min(running, policy.most_running)
    group_running = -(-running // layout.dp)
    captured = min(group_running, policy.captured or group_running)
    return {
        "model": model,
        "devices": layout.devices,
        "tp": layout.tp,
        "dp": layout.dp,
        "ep": layout.ep,
        "kv": kv,
        "chunk": policy.chunk_tokens,
        # A step must have room for one token, with drafts for more, of every sequence.
        "group_chunk": max(-(-policy.chunk_tokens // layout.dp), group_running * verified),
        "running": group_running * layout.dp,
        "group_running": group_running,
        "group_captured": captured,
        "group_captured_tokens": captured * verified,
        "used_share": held.used_share,
        "static_share": round((held.weight_bytes + held.cache_bytes) / held.device_bytes, 3),
        "drafts": setting.drafts,
        "verified": verified,
    }


def _wanted(trial: Trial) -> dict[str, bool]:
    """Which flags the plan needs, by their ``when``."""
    layout = trial.setting.layout
    return {"": True, "dp": layout.dp > 1, "ep": layout.ep > 1, "mtp": trial.setting.drafts > 0}


def _missing(table: Mapping[str, Any], trial: Trial) -> str:
    """What the engine's known flags cannot say."""
    layout = trial.setting.layout
    known = {flag.get("when", "") for flag in table["flags"]}
    names = {"dp": "data-parallel attention", "ep": "expert parallelism", "mtp": "drafting with MTP"}
    for when, wanted in _wanted(trial).items():
        if wanted and when not in known:
            return f"{table['title']} has no {names[when]}"
    if layout.ep not in (1, layout.devices) and not table["any_ep"]:
        return f"{table['title']} spreads whole experts over all {layout.devices} devices or over none"
    return ""


@cache
def flag_tables() -> dict[str, Any]:
    """``launch.toml``, by engine."""
    return tomllib.loads(_FILE.read_text(encoding="utf-8"))
