"""Finding and reading the files of a checkpoint folder without leaving it."""

import json
from collections import Counter
from pathlib import Path
from typing import Any

from fullbore.errors import CheckpointError, ConfigError, FullboreError

SMALL_JSON_BYTES = 4 << 20  # the published config.json has 2 KB


def file_in(folder: Path, name: str) -> Path:
    """The path of ``name`` in ``folder``; a name or a link that leads out of it is a CheckpointError.

    A folder ``snapshots/<revision>`` of the Hugging Face cache consists of links into ``blobs`` beside it;
    those are followed.
    """
    if not name or Path(name).name != name or name in (".", ".."):
        raise CheckpointError(
            f"{folder}: file name {name!r} has a path in it; all files of a checkpoint lie in one folder"
        )
    path, home = folder / name, folder.resolve()
    roots = [home]
    if home.parent.name == "snapshots":
        roots.append(home.parent.parent / "blobs")
    try:
        target = path.resolve()
        path.exists()  # an index may say anything: too long a name shows only when somebody looks
    except (OSError, RuntimeError, ValueError) as cause:  # a name no disk can hold, or a link to itself
        why = getattr(cause, "strerror", None) or cause
        raise CheckpointError(
            f"{folder}: {name[:120]!r} cannot be opened as a file of the checkpoint: {why}"
        ) from cause
    if not any(target.is_relative_to(root) for root in roots):
        raise CheckpointError(
            f"{path} is a link to {target}, outside {home}; move the file there, or link the whole folder"
        )
    return path


def read_json(
    path: Path, limit_bytes: int = SMALL_JSON_BYTES, error: type[FullboreError] = ConfigError
) -> Any:
    """The JSON value in ``path``; ``error`` names the file when it is absent, too large or no JSON."""
    try:
        size = path.stat().st_size
        if size > limit_bytes:
            raise error(f"{path} has {size} bytes, more than the {limit_bytes} allowed for this file")
        data = path.read_bytes()
        value = json.loads(data, object_pairs_hook=no_duplicates)
        if b"\\ud" in data.lower():  # half of a pair is no character, and no library takes it
            json.dumps(value, ensure_ascii=False).encode()
        return value
    except OSError as cause:
        raise error(f"{path} cannot be read: {cause.strerror or cause}") from cause
    except (ValueError, RecursionError) as cause:  # ValueError: no JSON, no UTF-8, or a number too long
        raise error(f"{path} is not valid JSON: {cause}") from cause


def read_object(
    path: Path, limit_bytes: int = SMALL_JSON_BYTES, error: type[FullboreError] = ConfigError
) -> dict[str, Any]:
    """As ``read_json``, for a file whose value must be an object."""
    value = read_json(path, limit_bytes, error)
    if not isinstance(value, dict):
        raise error(f"{path} holds a JSON {type(value).__name__}, expected an object")
    return value


def no_duplicates(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """Two values for one key would make the reader's choice decide what is loaded."""
    result = dict(pairs)
    if len(result) != len(pairs):
        twice, _ = Counter(name for name, _ in pairs).most_common(1)[0]
        raise ValueError(f"the key {twice!r} occurs twice")
    return result
