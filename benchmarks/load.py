"""``python -m benchmarks.load MODEL``: how long loading takes, beside reading the same files from end to end.

The first load takes memory that the system has to find and clear, on a virtual machine perhaps from its
host; the next ones take what the one before gave back. Both are told, as a server is always a first.
"""

import argparse
import os
import sys
import time
from collections.abc import Callable
from pathlib import Path

import torch

from fullbore.errors import FullboreError
from fullbore.hardware.limits import usable_cores
from fullbore.model.load import load_model
from fullbore.model.locate import locate

_PIECE_BYTES = 512 << 10


def main(arguments: list[str]) -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.load", description=__doc__)
    parser.add_argument("model", help="a checkpoint folder, or what serve takes")
    parser.add_argument("--dtype", default="auto")
    parser.add_argument("--repeats", type=int, default=3, help="loads and readings in turns (default: 3)")
    parser.add_argument("--cold", action="store_true", help="let go of the files' cached pages before each")
    args = parser.parse_args(arguments)
    torch.set_num_threads(usable_cores())
    try:
        folder = locate(args.model)
        files = sorted(folder.glob("*.safetensors"))
        size = sum(path.stat().st_size for path in files)
        print(f"{folder.name}: {size / 1e9:.2f} GB in {len(files)} files, {usable_cores()} threads")
        if not args.cold:
            _read(files)
        for number in range(1, args.repeats + 1):
            reading = _seconds(lambda: _read(files), files, args.cold)
            loading = _seconds(lambda: load_model(folder, args.dtype), files, args.cold)
            print(
                f"{number}: reading {reading:.2f} s ({size / reading / 1e9:.1f} GB/s), "
                f"loading {loading:.2f} s, {loading / reading:.1f} times as long"
            )
    except FullboreError as error:
        print(error, file=sys.stderr)
        return 1
    return 0


def _seconds(what: Callable[[], object], files: list[Path], cold: bool) -> float:
    if cold:
        for path in files:
            _forget(path)
    begin = time.perf_counter()
    what()
    return time.perf_counter() - begin


def _read(files: list[Path]) -> None:
    """As ``cat`` does, on one thread."""
    buffer = bytearray(_PIECE_BYTES)
    for path in files:
        with path.open("rb", buffering=0) as file:
            while file.readinto(buffer):
                pass


def _forget(path: Path) -> None:
    with path.open("rb") as file:
        os.fsync(file.fileno())  # pages that are not written yet would stay
        os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
