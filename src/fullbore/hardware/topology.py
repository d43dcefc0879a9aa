"""Where the processors that this process may use lie: which of them are one core, and which memory is near.

From Linux's ``/sys/devices/system/cpu``; elsewhere every processor counts as a core of its own on one node.
Imports no torch.
"""

import os
from collections import defaultdict
from collections.abc import Collection, Iterable
from dataclasses import dataclass
from pathlib import Path

CPUS = Path("/sys/devices/system/cpu")


@dataclass(frozen=True, order=True)
class Cpu:
    """A processor as the system counts them. ``core``: the lowest number among those that share its core."""

    node: int
    core: int
    number: int


def allowed_cpus(folder: Path = CPUS) -> tuple[Cpu, ...]:
    """Those of this process's affinity, in order of node, then of core."""
    if hasattr(os, "sched_getaffinity"):
        numbers: Collection[int] = os.sched_getaffinity(0)
    else:
        numbers = range(os.cpu_count() or 1)
    return tuple(sorted(_cpu(number, folder / f"cpu{number}") for number in numbers))


def core_count(cpus: Iterable[Cpu]) -> int:
    """How many cores they are: threads of one core share its arithmetic."""
    return len({cpu.core for cpu in cpus})


def spread(cpus: Iterable[Cpu], count: int) -> tuple[Cpu, ...]:
    """The ``count`` of them to compute on, in order of node: a processor of each core before any core's
    second, and as few nodes as that allows. All of them where they are fewer.
    """
    of_core: dict[int, list[Cpu]] = defaultdict(list)
    for cpu in sorted(cpus):
        of_core[cpu.core].append(cpu)
    ranked = sorted((rank, cpu) for core in of_core.values() for rank, cpu in enumerate(core))
    return tuple(sorted(cpu for _, cpu in ranked[:count]))


def _cpu(number: int, folder: Path) -> Cpu:
    nodes = (path.name.removeprefix("node") for path in folder.glob("node[0-9]*"))
    node = min((int(name) for name in nodes if name.isdecimal()), default=0)
    try:
        siblings = (folder / "topology" / "thread_siblings_list").read_text()
        core = int(siblings.replace("-", ",").split(",")[0])  # "0,64", "0-1": the lowest comes first
    except (OSError, ValueError):
        core = number
    return Cpu(node, core, number)
