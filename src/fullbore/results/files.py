"""Files that are replaced as a whole: a reader sees the old one or the new one, never half of one."""

import os
import tempfile
from pathlib import Path

from fullbore.errors import UsageError


def replace_file(path: str | Path, text: str) -> None:
    """Write ``text`` beside ``path`` first, so that a full disk leaves the old file as it was."""
    target = Path(path).absolute()
    handle, name = tempfile.mkstemp(dir=target.parent, prefix=f".{target.name}.")
    try:
        with os.fdopen(handle, "w", encoding="utf-8") as file:
            file.write(text)
        os.chmod(name, 0o644)
        os.replace(name, target)
    except BaseException:
        os.unlink(name)
        raise


def check_writable(path: str, flag: str = "--json") -> None:
    """Raise UsageError before the measuring rather than after it."""
    folder = Path(path).absolute().parent
    if Path(path).is_dir():
        raise UsageError(f"{flag} {path} is a folder; name a file")
    if not folder.is_dir():
        raise UsageError(f"{flag} {path}: there is no folder {folder}; make it first")
    if not os.access(folder, os.W_OK):
        raise UsageError(f"{flag} {path}: the folder {folder} cannot be written to")
