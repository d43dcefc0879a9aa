"""The machine at hand as a catalogue entry: what the system says of it, and what was measured.

Imports torch only in ``accelerators``.
"""

import platform
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from fullbore.hardware.cpu import cpu_flags, cpu_model, last_level_cache_bytes
from fullbore.hardware.limits import free_memory_bytes, usable_cores
from fullbore.hardware.topology import allowed_cpus, core_count

_MEMINFO = Path("/proc/meminfo")
_TOLD = (
    "avx2",
    "avx512f",
    "avx512_vnni",
    "avx512_bf16",
    "amx_bf16",
    "amx_int8",
    "asimd",
    "sve",
    "bf16",
    "i8mm",
)


@dataclass(frozen=True)
class Accelerator:
    """One GPU as torch tells of it. ``limits``: what may lower its figures and was not looked at."""

    name: str
    memory_bytes: int
    units: int  # compute units or streaming multiprocessors
    architecture: str
    limits: str


@dataclass(frozen=True)
class Machine:
    """``read_bytes_s`` and ``flop_s`` (by arithmetic) are measured, with ``threads``; the rest is told by the
    system. ``date``: of the measurement, as 2026-11-25."""

    name: str
    cpu: str
    cores: int
    threads: int
    nodes: int
    cache_bytes: int
    memory_bytes: int
    free_bytes: int
    isa: tuple[str, ...]
    read_bytes_s: float
    flop_s: Mapping[str, float]
    accelerators: tuple[Accelerator, ...]
    date: str


def total_memory_bytes(meminfo: Path = _MEMINFO) -> int:
    """Of the whole machine; what is free now where the system does not tell."""
    if meminfo.exists():
        for line in meminfo.read_text().splitlines():
            if line.startswith("MemTotal:"):
                return int(line.split()[1]) * 1024
    return free_memory_bytes()


def describe(
    read_bytes_s: float, flop_s: Mapping[str, float], accelerators: tuple[Accelerator, ...], date: str
) -> Machine:
    """This machine, with the ceilings that were measured."""
    cpus, flags = allowed_cpus(), cpu_flags()
    return Machine(
        name=entry_name(platform.node()),
        cpu=cpu_model(),
        cores=core_count(cpus),
        threads=usable_cores(),
        nodes=len({cpu.node for cpu in cpus}),
        cache_bytes=last_level_cache_bytes(),
        memory_bytes=total_memory_bytes(),
        free_bytes=free_memory_bytes(),
        isa=tuple(flag for flag in _TOLD if flag in flags),
        read_bytes_s=read_bytes_s,
        flop_s=dict(flop_s),
        accelerators=accelerators,
        date=date,
    )


def entry_name(text: str) -> str:
    """``text`` as a name of the catalogue: letters, digits, dots and dashes."""
    return re.sub(r"[^A-Za-z0-9.-]+", "-", text).strip("-.")[:40] or "this-machine"


def accelerators() -> tuple[Accelerator, ...]:
    """Those that torch sees; none where it was built for CPUs alone."""
    import torch

    if not torch.cuda.is_available():
        return ()
    found = []
    for index in range(torch.cuda.device_count()):
        told = torch.cuda.get_device_properties(index)
        amd = bool(getattr(torch.version, "hip", None))
        limits = "a firmware limiter, as some MI308X have, is not looked at" if "MI308" in told.name else ""
        architecture = str(getattr(told, "gcnArchName", "")) if amd else f"sm_{told.major}{told.minor}"
        found.append(
            Accelerator(told.name, told.total_memory, told.multi_processor_count, architecture, limits)
        )
    return tuple(found)


def as_toml(machine: Machine) -> str:
    """A catalogue of one device and one server, each figure with its source (``plan --catalogue``)."""
    name, cores = machine.name, machine.cores
    flops = machine.flop_s
    bf16, int8 = flops.get("bfloat16", flops["float32"]), flops.get("int8")
    lines = [
        f"# {machine.cpu}; {cores} cores on {machine.nodes} node(s), {' '.join(machine.isa)}",
        "",
        "[sources.probed]",
        'mark = "measured"',
        f'text = "fullbore inspect machine, {machine.date}, {machine.threads} threads"',
        "",
        "[sources.system]",
        'mark = "measured"',
        f'text = "told by the system, {machine.date}"',
        "",
        "[sources.alone]",
        'mark = "assumed"',
        'text = "one device, which exchanges nothing: its own memory\'s bandwidth"',
        "",
        f'[devices."{name}"]',
        f'vendor = "{_vendor(machine.cpu)}"',
        f'architecture = "{"-".join(("cpu", *machine.isa[-1:]))}"',
        f"units = {cores}",
        'topology = "pcie"',
        f'memory_gb = [{machine.memory_bytes / 1e9:.2f}, "system"]',
        f'bandwidth_tb_s = [{machine.read_bytes_s / 1e12:.5f}, "probed"]',
        f'bf16_tflop_s = [{bf16 / 1e12:.4f}, "probed"]',
        *([f'fp8_tflop_s = [{int8 / 1e12:.4f}, "probed"]'] if int8 else []),
        f'link_gb_s = [{machine.read_bytes_s / 1e9:.2f}, "alone"]',
        "",
        f"[servers.{name.lower() if re.fullmatch('[A-Za-z0-9-]+', name) else _quoted(name.lower())}]",
        f'device = "{name}"',
        "count = 1",
        f'note = "measured by fullbore inspect machine on {machine.date}"',
        "",
    ]
    return "\n".join(lines)


def _quoted(text: str) -> str:
    return f'"{text}"'


def _vendor(cpu: str) -> str:
    lower = cpu.lower()
    return next((name for name in ("amd", "intel", "arm") if name in lower), "cpu")
