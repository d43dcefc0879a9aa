"""One safetensors file: its header, checked against the size before anything is believed, and its bytes.

Format: 8 bytes, the header's length (little-endian); the header, a JSON object {name: {dtype, shape,
data_offsets}}; then the data, which the offsets must tile without gap or overlap. An own reader rather than
the library's: it maps the file, so that pages can be handed back one tensor at a time, and its messages name
the tensor.
"""

import hashlib
import itertools
import json
import math
import mmap
import os
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from fullbore.errors import CheckpointError
from fullbore.model.files import no_duplicates

HEADER_LIMIT = 100_000_000  # bytes, the library's own limit
_WINDOW = max(1 << 16, mmap.PAGESIZE)  # touching one page maps its cached neighbours within 64 KB as well
_NORESERVE = 0x4000 if sys.platform == "linux" else 0  # MAP_NORESERVE, which Python 3.11 does not name
DTYPES: Mapping[str, torch.dtype] = {
    "F32": torch.float32,
    "BF16": torch.bfloat16,
    "F8_E4M3": torch.float8_e4m3fn,
}
# Other types of the format, so that a file that holds them is understood and the tensor refused by name.
_OTHER_BYTES = {
    "F64": 8, "I64": 8, "U64": 8, "C64": 8, "I32": 4, "U32": 4, "F16": 2, "I16": 2, "U16": 2, "I8": 1,
    "U8": 1, "BOOL": 1, "F8_E5M2": 1, "F8_E8M0": 1, "F8_E4M3FNUZ": 1, "F8_E5M2FNUZ": 1,
}  # fmt: skip
ITEM_BYTES: Mapping[str, int] = _OTHER_BYTES | {name: dtype.itemsize for name, dtype in DTYPES.items()}


@dataclass(frozen=True, slots=True)
class Entry:
    """Where a tensor lies: bytes ``begin`` to ``end`` of the file."""

    dtype: str
    shape: tuple[int, ...]
    begin: int
    end: int


def read_header(path: Path) -> dict[str, Entry]:
    """The tensors of a file by name. Raises CheckpointError naming file and tensor; reads no data."""
    try:
        with path.open("rb") as file:
            size = os.fstat(file.fileno()).st_size
            length = int.from_bytes(file.read(8), "little")
            if size < 8 or length > size - 8:
                raise CheckpointError(
                    f"{path}: the header should have {length} bytes, the file has {size} in all; "
                    "it is truncated or no safetensors file: download it again"
                )
            if length > HEADER_LIMIT:
                raise CheckpointError(
                    f"{path}: a header of {length} bytes exceeds the {HEADER_LIMIT} allowed"
                )
            text = file.read(length)
    except OSError as cause:
        raise CheckpointError(f"{path} cannot be read: {cause.strerror or cause}") from cause
    try:
        header = json.loads(text, object_pairs_hook=no_duplicates)
    except (ValueError, RecursionError) as cause:
        raise CheckpointError(f"{path}: the header is not valid JSON: {cause}") from cause
    if not isinstance(header, dict):
        raise CheckpointError(f"{path}: the header is no JSON object")
    header.pop("__metadata__", None)
    start = 8 + length
    entries = {name: _entry(path, name, value, start, size) for name, value in header.items()}
    _check_tiling(path, entries, start, size)
    return entries


def _entry(path: Path, name: str, value: Any, start: int, size: int) -> Entry:
    """One tensor's line of the header, with its place in the file."""
    fields = value if isinstance(value, dict) else {}
    dtype, shape, offsets = fields.get("dtype"), _sizes(fields, "shape"), _sizes(fields, "data_offsets")
    if not isinstance(dtype, str) or shape is None or offsets is None or len(offsets) != 2:
        found = str(value)[:200]
        raise CheckpointError(f"{path}: tensor {name} is {found}, expected dtype, shape and data_offsets")
    if dtype not in ITEM_BYTES:
        raise CheckpointError(f"{path}: tensor {name} has the unknown dtype {dtype!r}")
    begin, end = offsets
    needed = math.prod(shape) * ITEM_BYTES[dtype]
    if end - begin != needed:
        raise CheckpointError(
            f"{path}: tensor {name} ({dtype} {shape}) needs {needed} bytes, "
            f"its offsets {offsets} give it {end - begin}"
        )
    if end > size - start:
        raise CheckpointError(
            f"{path}: tensor {name} should end at byte {start + end}, the file ends at {size}; "
            "it is truncated: download it again"
        )
    return Entry(dtype, tuple(shape), start + begin, start + end)


def _sizes(fields: dict[str, Any], key: str) -> list[int] | None:
    """A list of non-negative whole numbers; None for anything else."""
    value = fields.get(key)
    return value if isinstance(value, list) and all(type(one) is int and one >= 0 for one in value) else None


def _check_tiling(path: Path, entries: Mapping[str, Entry], start: int, size: int) -> None:
    place, before = start, "the header"
    for name, entry in sorted(entries.items(), key=lambda item: (item[1].begin, item[1].end)):
        if entry.begin != place:
            what = "overlaps" if entry.begin < place else "leaves a gap after"
            raise CheckpointError(f"{path}: tensor {name} begins at byte {entry.begin} and {what} {before}")
        place, before = entry.end, name
    if place != size:
        raise CheckpointError(f"{path}: {size - place} bytes after the last tensor belong to nothing")


class MappedFile:
    """A file's bytes as tensors that share its pages: nothing is read until it is used."""

    def __init__(self, path: Path) -> None:
        with path.open("rb") as file:
            # A private writable mapping: torch wants to be able to write, and what is written would stay
            # in this process. NORESERVE, as nothing is: 670 GB of files may be mapped on any machine.
            self._map = mmap.mmap(
                file.fileno(),
                0,
                flags=mmap.MAP_PRIVATE | _NORESERVE,
                prot=mmap.PROT_READ | mmap.PROT_WRITE,
            )

    def tensor(self, entry: Entry) -> Tensor:
        """A view of the mapped pages, in the type and shape that the header gives."""
        dtype = DTYPES[entry.dtype]
        if entry.begin == entry.end:
            return torch.empty(entry.shape, dtype=dtype)
        if entry.begin % dtype.itemsize:  # the format does not promise alignment, kernels want it
            flat = torch.frombuffer(bytearray(self._map[entry.begin : entry.end]), dtype=dtype)
        else:
            count = (entry.end - entry.begin) // dtype.itemsize
            flat = torch.frombuffer(self._map, dtype=dtype, count=count, offset=entry.begin)
        return flat.view(entry.shape)

    def release(self, entry: Entry) -> None:
        """Hands the tensor's pages back; a view of them still works and reads the file again."""
        first = entry.begin // _WINDOW * _WINDOW
        end = min(-(-entry.end // _WINDOW) * _WINDOW, len(self._map))
        if end > first:
            self._map.madvise(mmap.MADV_DONTNEED, first, end - first)


def write_file(path: Path, entries: Mapping[str, tuple[str, tuple[int, ...]]], data: Iterator[bytes]) -> str:
    """Writes tensors in the order of ``entries`` {name: (dtype, shape)}, their bytes taken from ``data``.

    Returns the file's SHA-256 in hexadecimal. The number of bytes must come out as the entries say.
    """
    fields: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    place = 0
    for name, (dtype, shape) in entries.items():
        end = place + ITEM_BYTES[dtype] * math.prod(shape)
        fields[name] = {"dtype": dtype, "shape": list(shape), "data_offsets": [place, end]}
        place = end
    text = json.dumps(fields, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    digest = hashlib.sha256()
    with path.open("wb") as file:
        for part in itertools.chain([len(text).to_bytes(8, "little") + text], data):
            file.write(part)
            digest.update(part)
        if file.tell() != 8 + len(text) + place:
            raise CheckpointError(
                f"{path}: {file.tell()} bytes were written, expected {8 + len(text) + place}"
            )
    return digest.hexdigest()
