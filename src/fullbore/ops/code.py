"""What identifies a kernel's code, so that a time is never trusted after the code has changed."""

import hashlib
import inspect
from collections.abc import Mapping
from pathlib import Path

from fullbore.ops.contract import Kernel
from fullbore.ops.registry import Registry
from fullbore.ops.sources import ROOT, file_hash, folder_hash


def kernel_code(kernel: type[Kernel]) -> str:
    """A hash of everything in the folder of the kernel's module (kernels of one folder share helpers), of the
    operators' contracts, and of its compiled library."""
    binary = kernel.binary()
    parts = (
        folder_hash(Path(inspect.getfile(kernel)).parent),
        folder_hash(ROOT / "ops"),
        file_hash(Path(binary)) if binary else "",
    )
    return hashlib.blake2b(" ".join(parts).encode(), digest_size=8).hexdigest()


def codes(registry: Registry) -> Mapping[tuple[str, str], str]:
    """(operator, kernel) -> its code, for every kernel that can be imported here."""
    known = {}
    for entry in registry.entries:
        try:
            known[entry.operator, entry.name] = kernel_code(entry.load())
        except ImportError:
            continue
    return known
