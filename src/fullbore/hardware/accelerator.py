"""GPUs as torch tells of them, with what the system adds and what was measured."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from fullbore.hardware.gpus import SystemGpu, system_gpus

# Memory-side caches that torch does not count: AMD's Infinity Cache (CDNA3 white paper).
_FAR_CACHES = {"gfx940": 256 << 20, "gfx941": 256 << 20, "gfx942": 256 << 20, "gfx950": 256 << 20}
_USUAL_CACHE_BYTES = 64 << 20  # where torch does not tell: more than any L2 of its day
# By torch's name of an architecture, the catalogue's.
ARCHITECTURES = {
    "sm_80": "ampere", "sm_86": "ampere", "sm_89": "ada", "sm_90": "hopper",
    "sm_100": "blackwell", "sm_103": "blackwell", "sm_120": "blackwell",
    "gfx90a": "cdna2", "gfx942": "cdna3", "gfx950": "cdna4",
}  # fmt: skip


@dataclass(frozen=True)
class Accelerator:
    """One GPU. ``limiter``: as of ``SystemGpu``. ``read_bytes_s`` and ``flop_s`` (by arithmetic) are
    measured, 0 and empty where they were not."""

    name: str
    memory_bytes: int
    units: int  # compute units or streaming multiprocessors
    architecture: str
    cache_bytes: int  # the last before memory
    driver: str = ""
    limiter: str = ""
    read_bytes_s: float = 0.0
    flop_s: Mapping[str, float] = field(default_factory=dict)


def accelerators() -> tuple[Accelerator, ...]:
    """Those that torch sees; none where it was built for CPUs alone."""
    import torch

    if not torch.cuda.is_available():
        return ()
    found = {gpu.bus.lower(): gpu for gpu in system_gpus()}
    told = [torch.cuda.get_device_properties(index) for index in range(torch.cuda.device_count())]
    return tuple(_accelerator(each, found) for each in told)


def _accelerator(told: Any, found: Mapping[str, SystemGpu]) -> Accelerator:
    """``told``: torch's properties of a device."""
    amd = str(getattr(told, "gcnArchName", "")).split(":")[0]
    architecture = amd or f"sm_{told.major}{told.minor}"
    numbers = [getattr(told, f"pci_{part}_id", -1) for part in ("domain", "bus", "device")]
    bus = "{:04x}:{:02x}:{:02x}.0".format(*numbers) if min(numbers) >= 0 else ""
    system = found.get(bus) or next(iter(found.values()), None)
    return Accelerator(
        name=told.name,
        memory_bytes=told.total_memory,
        units=told.multi_processor_count,
        architecture=architecture,
        cache_bytes=max(getattr(told, "L2_cache_size", 0), _FAR_CACHES.get(architecture, 0))
        or _USUAL_CACHE_BYTES,
        driver=system.driver if system else "",
        limiter=system.limiter if system else "",
    )
