"""What a time was measured on. Two machines of one fingerprint may use each other's times. No torch."""

import hashlib
from collections.abc import Mapping
from importlib import metadata

from fullbore.hardware.cpu import cpu_flags, cpu_model, last_level_cache_bytes
from fullbore.hardware.gpus import interpreted, system_gpus

# Flags that come and go with the kernel's version and the hypervisor and that no kernel of ours looks at.
_PREFIXES = ("avx", "amx", "sse", "fma", "f16c", "asimd", "sve", "bf16", "i8mm", "neon", "fp")


def machine_fingerprint(threads: int, device: str = "cpu") -> Mapping[str, str]:
    """Names and values that must all agree; ``threads`` is how many compute where ``device`` is the CPU. On a
    GPU one computes, and the CPU has no part in a kernel's time."""
    if device != "cpu":
        return _gpu_fingerprint()
    flags = sorted(flag for flag in cpu_flags() if flag.startswith(_PREFIXES))
    return {
        "cpu": cpu_model(),
        "threads": str(threads),
        "isa": " ".join(flags),
        "cache_bytes": str(last_level_cache_bytes()),
        "torch": metadata.version("torch"),
    }


def _gpu_fingerprint() -> Mapping[str, str]:
    gpus = () if interpreted() else system_gpus()
    return {
        "gpu": " + ".join(sorted({gpu.name for gpu in gpus})) or "Triton's interpreter",
        "gpus": "1",
        "driver": " + ".join(sorted({gpu.driver for gpu in gpus})),
        "limiter": " + ".join(sorted({gpu.limiter for gpu in gpus})),
        "torch": metadata.version("torch"),
        "triton": _version("triton"),
    }


def _version(package: str) -> str:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:  # found by PYTHONPATH, or absent
        return "unknown"


def digest(fingerprint: Mapping[str, str]) -> str:
    """A short name of a fingerprint, for a file: 16 hexadecimal digits."""
    text = "\n".join(f"{name}={value}" for name, value in sorted(fingerprint.items()))
    return hashlib.blake2b(text.encode(), digest_size=8).hexdigest()


def differences(ours: Mapping[str, str], theirs: Mapping[str, str]) -> list[str]:
    """``threads 8 there, 2 here`` for every value that differs; empty when times may be shared."""
    return [
        f"{name} {theirs.get(name, 'not stated')} there, {ours.get(name, 'not stated')} here"
        for name in sorted({*ours, *theirs})
        if ours.get(name) != theirs.get(name)
    ]
