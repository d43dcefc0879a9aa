"""What this machine's processor can do, from what the kernel says of it. Imports no torch."""

from pathlib import Path

CPUINFO = Path("/proc/cpuinfo")


def cpu_flags(cpuinfo: Path = CPUINFO) -> frozenset[str]:
    """Instruction set names as Linux spells them; empty where they cannot be read (another system)."""
    try:
        lines = cpuinfo.read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return frozenset()
    for line in lines:
        key, _, value = line.partition(":")
        if key.strip() in ("flags", "Features"):
            return frozenset(value.split())
    return frozenset()


def multiplies_bfloat16(flags: frozenset[str]) -> bool:
    """Whether bfloat16 products have an instruction; without one they are far slower than float32."""
    return bool(flags & {"avx512_bf16", "amx_bf16"})


def best_dtype(flags: frozenset[str] | None = None) -> str:
    """The compute type this CPU multiplies fastest: bfloat16 or float32."""
    return "bfloat16" if multiplies_bfloat16(cpu_flags() if flags is None else flags) else "float32"
