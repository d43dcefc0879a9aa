"""The machine at hand as a catalogue entry: what the system says of it, and what was measured."""

import platform
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from fullbore.hardware.accelerator import ARCHITECTURES, Accelerator
from fullbore.hardware.cpu import cpu_flags, cpu_model, last_level_cache_bytes
from fullbore.hardware.interconnect import ALONE, Interconnect
from fullbore.hardware.limits import free_memory_bytes, usable_cores
from fullbore.hardware.topology import allowed_cpus, core_count

_MEMINFO = Path("/proc/meminfo")
_PCIE_BYTES_S = 64e9
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
    links: Interconnect = ALONE  # of the accelerators


def total_memory_bytes(meminfo: Path = _MEMINFO) -> int:
    """Of the whole machine; what is free now where the system does not tell."""
    if meminfo.exists():
        for line in meminfo.read_text().splitlines():
            if line.startswith("MemTotal:"):
                return int(line.split()[1]) * 1024
    return free_memory_bytes()


def describe(
    read_bytes_s: float,
    flop_s: Mapping[str, float],
    accelerators: tuple[Accelerator, ...],
    date: str,
    links: Interconnect = ALONE,
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
        links=links,
    )


def entry_name(text: str) -> str:
    """``text`` as a name of the catalogue: letters, digits, dots and dashes."""
    return re.sub(r"[^A-Za-z0-9.-]+", "-", text).strip("-.")[:40] or "this-machine"


def as_toml(machine: Machine) -> str:
    """A catalogue of one device and one server, each figure with its source (``plan --catalogue``): of its
    accelerators where one was measured, else of the CPU."""
    measured = next((each for each in machine.accelerators if each.read_bytes_s), None)
    entry = _cpu_entry(machine) if measured is None else _gpu_entry(machine, measured)
    name, count = machine.name.lower(), 1 if measured is None else len(machine.accelerators)
    lines = [
        *entry,
        "",
        f"[servers.{name if re.fullmatch('[a-z0-9-]+', name) else _quoted(name)}]",
        f'device = "{machine.name}"',
        f"count = {count}",
        f'note = "measured by fullbore inspect machine on {machine.date}"',
        "",
    ]
    return "\n".join(lines)


def _sources(machine: Machine, by: str) -> list[str]:
    return [
        "",
        "[sources.probed]",
        'mark = "measured"',
        f'text = "fullbore inspect machine, {machine.date}, {by}"',
        "",
        "[sources.system]",
        'mark = "measured"',
        f'text = "told by the system, {machine.date}"',
        "",
        "[sources.alone]",
        'mark = "assumed"',
        'text = "one device, which exchanges nothing: its own memory\'s bandwidth"',
        "",
        "[sources.pcie]",
        'mark = "assumed"',
        'text = "what 16 lanes of PCIe 5 carry: the links tell no bandwidth"',
        "",
        f'[devices."{machine.name}"]',
    ]


def _cpu_entry(machine: Machine) -> list[str]:
    flops = machine.flop_s
    bf16, int8 = flops.get("bfloat16", flops["float32"]), flops.get("int8")
    return [
        f"# {machine.cpu}; {machine.cores} cores on {machine.nodes} node(s), {' '.join(machine.isa)}",
        *_sources(machine, f"{machine.threads} threads"),
        f'vendor = "{_vendor(machine.cpu)}"',
        f'architecture = "{"-".join(("cpu", *machine.isa[-1:]))}"',
        f"units = {machine.cores}",
        'topology = "pcie"',
        f'memory_gb = [{machine.memory_bytes / 1e9:.2f}, "system"]',
        f'bandwidth_tb_s = [{machine.read_bytes_s / 1e12:.5f}, "probed"]',
        f'bf16_tflop_s = [{bf16 / 1e12:.4f}, "probed"]',
        *([f'fp8_tflop_s = [{int8 / 1e12:.4f}, "probed"]'] if int8 else []),
        f'link_gb_s = [{machine.read_bytes_s / 1e9:.2f}, "alone"]',
    ]


def _gpu_entry(machine: Machine, gpu: Accelerator) -> list[str]:
    """The measured rate is what is reached; it stands for the bandwidth too, of which the system tells
    nothing."""
    links, fp8 = machine.links, gpu.flop_s.get("fp8")
    link = links.bytes_s or (_PCIE_BYTES_S if len(machine.accelerators) > 1 else gpu.read_bytes_s)
    source = "system" if links.bytes_s else "pcie" if len(machine.accelerators) > 1 else "alone"
    return [
        f"# {gpu.name}, {gpu.architecture}, {gpu.driver}; {links.text or 'one GPU'}",
        *_sources(machine, "one GPU"),
        f'vendor = "{"amd" if gpu.architecture.startswith("gfx") else "nvidia"}"',
        f'architecture = "{ARCHITECTURES.get(gpu.architecture, gpu.architecture)}"',
        f"units = {gpu.units}",
        f'topology = "{links.topology or "pcie"}"',
        f'memory_gb = [{gpu.memory_bytes / 1e9:.2f}, "system"]',
        f'bandwidth_tb_s = [{gpu.read_bytes_s / 1e12:.5f}, "probed"]',
        f'reached_tb_s = [{gpu.read_bytes_s / 1e12:.5f}, "probed"]',
        f'bf16_tflop_s = [{gpu.flop_s["bfloat16"] / 1e12:.4f}, "probed"]',
        *([f'fp8_tflop_s = [{fp8 / 1e12:.4f}, "probed"]'] if fp8 else []),
        f'link_gb_s = [{link / 1e9:.2f}, "{source}"]',
    ]


def _quoted(text: str) -> str:
    return f'"{text}"'


def _vendor(cpu: str) -> str:
    lower = cpu.lower()
    return next((name for name in ("amd", "intel", "arm") if name in lower), "cpu")
