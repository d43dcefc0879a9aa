"""Which step-time model it was: equal versions give equal times."""

import hashlib
from functools import cache
from pathlib import Path

from fullbore import __version__
from fullbore.ops.sources import file_hash, folder_hash

_HERE = Path(__file__).parent


@cache
def model_version() -> str:
    """``0.1.0+3f9a1c2b``: the package's, and a hash of this room's code, rules and factors."""
    parts = (folder_hash(_HERE), *(file_hash(path) for path in sorted(_HERE.glob("*.toml"))))
    return f"{__version__}+{hashlib.blake2b(''.join(parts).encode(), digest_size=4).hexdigest()}"
