"""Files that are replaced as a whole: a reader sees the old one or the new one, never half of one."""

import os
import tempfile
from pathlib import Path


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
