"""Hashes of source files. Imports no torch."""

import hashlib
from functools import cache
from pathlib import Path

ROOT = Path(__file__).parents[1]  # of this package
_SOURCES = (".py", ".h", ".cpp", ".c", ".cu", ".inc")


@cache
def folder_hash(folder: Path) -> str:
    """Of every source file in ``folder``, at any depth."""
    digest = hashlib.blake2b(digest_size=8)
    for path in sorted(path for path in folder.rglob("*") if path.suffix in _SOURCES):
        digest.update(f"{path.relative_to(folder)}\n".encode())
        digest.update(path.read_bytes())
    return digest.hexdigest()


@cache
def file_hash(path: Path) -> str:
    """Of one file, a compiled library say."""
    return hashlib.blake2b(path.read_bytes(), digest_size=8).hexdigest()


def source_code() -> str:
    """Of all operators and kernels: nothing that was measured for a model is stale while this stays."""
    return "".join(folder_hash(ROOT / room) for room in ("ops", "kernels"))
