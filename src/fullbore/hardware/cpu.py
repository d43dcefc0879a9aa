"""What this machine's processor can do, from what the kernel says of it. Imports no torch."""

import platform
from pathlib import Path

CPUINFO = Path("/proc/cpuinfo")
CACHES = Path("/sys/devices/system/cpu/cpu0/cache")
USUAL_CACHE_BYTES = 32 << 20  # where the system does not tell: what most servers have a core complex
_UNITS = {"K": 1 << 10, "M": 1 << 20, "G": 1 << 30}


def cpu_flags(cpuinfo: Path = CPUINFO) -> frozenset[str]:
    """Instruction set names as Linux spells them; empty where they cannot be read (another system)."""
    return frozenset(_field(cpuinfo, "flags", "Features").split())


def cpu_model(cpuinfo: Path = CPUINFO) -> str:
    """The processor's name with family, model and stepping: some clouds call every one by a single name."""
    name = _field(cpuinfo, "model name", "Model") or platform.processor() or platform.machine()
    numbers = [_field(cpuinfo, key) for key in ("cpu family", "model", "stepping")]
    return f"{name} ({'/'.join(numbers)})" if all(numbers) else name


def last_level_cache_bytes(caches: Path = CACHES) -> int:
    """Size of the largest cache that the first core sees; ``USUAL_CACHE_BYTES`` where nothing tells."""
    sizes = []
    for path in sorted(caches.glob("index*/size")):
        text = path.read_text().strip()
        number, unit = (text[:-1], _UNITS[text[-1]]) if text[-1:] in _UNITS else (text, 1)
        if number.isdecimal():
            sizes.append(int(number) * unit)
    return max(sizes, default=USUAL_CACHE_BYTES)


def multiplies_bfloat16(flags: frozenset[str]) -> bool:
    """Whether bfloat16 products have an instruction; without one they are far slower than float32."""
    return bool(flags & {"avx512_bf16", "amx_bf16"})


def best_dtype(flags: frozenset[str] | None = None) -> str:
    """The compute type this CPU multiplies fastest: bfloat16 or float32."""
    return "bfloat16" if multiplies_bfloat16(cpu_flags() if flags is None else flags) else "float32"


def _field(cpuinfo: Path, *keys: str) -> str:
    """The value of the first line with one of these keys, "" without one."""
    try:
        lines = cpuinfo.read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return ""
    for line in lines:
        key, _, value = line.partition(":")
        if key.strip() in keys:
            return value.strip()
    return ""
