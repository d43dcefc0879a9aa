"""Where a model's files are. Nothing is downloaded here."""

import os
import re
from pathlib import Path

from fullbore.errors import CheckpointError

BUNDLED = Path(__file__).parents[1] / "assets"
_HUB_NAME = re.compile(r"([A-Za-z0-9][\w.-]*)/([A-Za-z0-9][\w.-]*)(?:@([\w.-]+))?")


def locate(name: str) -> Path:
    """The folder of a model: ``demo``, a path, or ``org/name[@revision]`` in the local Hugging Face cache.

    A folder on disk goes before a name in the cache; a folder called demo is written ``./demo``.
    Raises CheckpointError, saying what to do, when there is no such folder.
    """
    if name == "demo":
        return _with_config(BUNDLED / "demo", "this installation lacks the bundled demo model; reinstall it")
    folder = Path(name).expanduser()
    if folder.is_dir():
        return _with_config(folder, "give the folder that holds config.json and the *.safetensors files")
    if folder.exists():
        raise CheckpointError(
            f"model {name!r} is a file; give the folder that holds config.json and the *.safetensors files"
        )
    match = _HUB_NAME.fullmatch(name)
    if not match:
        raise CheckpointError(
            f"there is no folder {name!r}; give 'demo', the folder of a checkpoint, or org/name of a model "
            "in the Hugging Face cache"
        )
    return _in_cache(match[1], match[2], match[3] or "main")


def _with_config(folder: Path, otherwise: str) -> Path:
    if not (folder / "config.json").exists():
        raise CheckpointError(f"{folder} has no config.json; {otherwise}")
    return folder


def _in_cache(organisation: str, model: str, revision: str) -> Path:
    """The snapshot of ``revision`` (a branch, a tag or a commit) as the hub's own client lays it out."""
    cache = _cache_folder()
    repository = cache / f"models--{organisation}--{model}"
    reference = repository / "refs" / revision
    commit = reference.read_text().strip() if reference.is_file() else revision
    snapshot = repository / "snapshots" / commit
    if Path(commit).name != commit or not snapshot.is_dir():
        full = f"{organisation}/{model}"
        pin = "" if revision == "main" else f" --revision {revision}"
        raise CheckpointError(
            f"{full} (revision {revision}) is neither a folder here nor in the Hugging Face cache {cache}; "
            f"download it (hf download {full}{pin}), or give the folder that holds it"
        )
    return _with_config(snapshot, f"complete the download: hf download {organisation}/{model}")


def _cache_folder() -> Path:
    """As the hub's client finds it: HF_HUB_CACHE, else hub in HF_HOME, else in the user's cache."""
    if hub := os.environ.get("HF_HUB_CACHE"):
        return Path(hub).expanduser()
    if home := os.environ.get("HF_HOME"):
        return Path(home).expanduser() / "hub"
    return Path(os.environ.get("XDG_CACHE_HOME", "~/.cache")).expanduser() / "huggingface" / "hub"
