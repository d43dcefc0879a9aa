"""Reading a checkpoint to the last byte: are all values numbers, and the files those that were published?"""

import hashlib
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from fullbore.errors import CheckpointError
from fullbore.model.checkpoint import Checkpoint
from fullbore.model.files import file_in

MANIFEST = "SHA256SUMS"
_PIECE_BYTES = 16 << 20
_SHA256 = re.compile(r"[0-9a-f]{64}")
Progress = Callable[[int], None]  # so many more bytes are done


@dataclass(frozen=True)
class VerifiedFile:
    """``recorded`` says where else the same sum is recorded; empty when nothing records one."""

    name: str
    bytes: int
    sha256: str
    recorded: str


def verify(checkpoint: Checkpoint, progress: Progress) -> Iterator[VerifiedFile]:
    """Reads every file twice, once for its sum and once for its values, and yields it when it is in order.

    Raises CheckpointError: a sum differs from the recorded one, a recorded file is missing, a tensor holds a
    value that is not finite, or a factor that is not positive.
    """
    sums = _read_manifest(checkpoint.folder)
    weights = {path.name: path for path in checkpoint.files}
    for name in sums:
        if not file_in(checkpoint.folder, name).is_file():
            raise CheckpointError(f"{checkpoint.folder / MANIFEST} lists the file {name}, which is not there")
    for name in [*weights, *(name for name in sums if name not in weights)]:
        path = checkpoint.folder / name
        digest = _sha256(path, progress)
        recorded = _compare(path, digest, sums.get(name))
        if name in weights:
            _check_values(checkpoint, path, progress)
        yield VerifiedFile(name, path.stat().st_size, digest, recorded)


def bytes_to_verify(checkpoint: Checkpoint) -> int:
    """What ``progress`` will add up to, near enough for a bar."""
    return sum(path.stat().st_size for path in checkpoint.files) + sum(
        checkpoint.stored_bytes(name) for name in checkpoint.specs
    )


def _read_manifest(folder: Path) -> dict[str, str]:
    """``sha256sum``'s lines, file name to sum; empty without such a file."""
    path = file_in(folder, MANIFEST)
    if not path.exists():
        return {}
    sums = {}
    for number, line in enumerate(path.read_text("utf-8", "replace").splitlines(), 1):
        digest, _, name = line.strip().partition(" ")
        name = name.strip().removeprefix("*").removeprefix("./")
        if not line.strip() or line.startswith("#"):
            continue
        if not _SHA256.fullmatch(digest.lower()) or not name:
            raise CheckpointError(
                f"{path}: line {number} is {line[:120]!r}, expected a SHA-256 and a file name"
            )
        sums[name] = digest.lower()
    return sums


def _compare(path: Path, digest: str, listed: str | None) -> str:
    """Where the sum is recorded; CheckpointError where a record differs."""
    records = {
        MANIFEST: listed,
        "the hub's cache": _cached_sum(path),
        "the download's notes": _noted_sum(path),
    }
    for source, expected in records.items():
        if expected not in (None, digest):
            raise CheckpointError(
                f"{path} is damaged or another version: its SHA-256 is {digest}, {source} says {expected}; "
                "download it again"
            )
    return ", ".join(source for source, expected in records.items() if expected)


def _cached_sum(path: Path) -> str | None:
    """In the Hugging Face cache a large file is a link to a blob that is named after its SHA-256."""
    name = path.resolve().name
    return name if path.is_symlink() and _SHA256.fullmatch(name) else None


def _noted_sum(path: Path) -> str | None:
    """A download into a folder leaves notes: the commit, then the sum of a large file, then the time."""
    notes = path.parent / ".cache" / "huggingface" / "download" / f"{path.name}.metadata"
    lines = notes.read_text("utf-8", "replace").splitlines() if notes.is_file() else []
    return lines[1].strip() if len(lines) > 1 and _SHA256.fullmatch(lines[1].strip()) else None


def _sha256(path: Path, progress: Progress) -> str:
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while piece := file.read(_PIECE_BYTES):
            digest.update(piece)
            progress(len(piece))
    return digest.hexdigest()


def _check_values(checkpoint: Checkpoint, path: Path, progress: Progress) -> None:
    for name, spec in checkpoint.specs.items():
        if checkpoint.file_of(name) != path:
            continue
        if len(spec.shape) == 2:
            checkpoint.weight(name)  # looks at the factors
        flat = checkpoint.tensor(name).flatten()  # looks at a vector's values
        for first in range(0, len(flat), _PIECE_BYTES):
            piece = flat[first : first + _PIECE_BYTES]
            bad = _not_finite(piece)
            if bool(bad.any()):
                place = first + int(bad.nonzero()[0])
                where = [*divmod(place, spec.shape[1])]
                raise CheckpointError(
                    f"{path}: tensor {name} holds {flat[place].float().item()} at {where}, expected a finite "
                    "number; the file is damaged or was badly converted"
                )
            progress(piece.nbytes)
        checkpoint.release(name)


def _not_finite(values: Tensor) -> Tensor:
    """Where a value is no number. e4m3 has no infinity and two codes for NaN."""
    if values.dtype == torch.float8_e4m3fn:
        return (values.view(torch.uint8) & 0x7F) == 0x7F
    return ~values.isfinite()
