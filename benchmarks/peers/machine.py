"""What a server and everybody else took of this machine while a point was measured (Linux, /proc)."""

import os
from dataclasses import dataclass
from pathlib import Path

PROC = Path("/proc")
TICKS = os.sysconf("SC_CLK_TCK")


@dataclass(frozen=True)
class Member:
    """A process by its id and the time it began, which together are never used twice."""

    pid: int
    began: int

    @classmethod
    def of(cls, pid: int) -> "Member | None":
        """None where no such process runs; a zombie runs no more."""
        fields = _stat(pid)
        return None if not fields or fields[0] == "Z" else cls(pid, int(fields[19]))


@dataclass(frozen=True)
class Use:
    """CPU seconds since boot: of a family of processes and this one, of everybody, and stolen by the host."""

    own_s: float
    all_s: float
    stolen_s: float
    wall_s: float

    @classmethod
    def of(cls, pid: int, wall_s: float) -> "Use":
        own = sum(_cpu_ticks(each) for each in {*_tree(pid), os.getpid()})
        user, nice, system, _, _, irq, softirq, steal = map(int, (PROC / "stat").read_text().split()[1:9])
        busy = user + nice + system + irq + softirq
        return cls(own / TICKS, busy / TICKS, steal / TICKS, wall_s)


@dataclass(frozen=True)
class Load:
    """Cores that were busy, on average over a point."""

    own: float  # of the server and the client
    other: float
    stolen: float

    @classmethod
    def between(cls, before: Use, after: Use) -> "Load":
        wall_s = max(1e-9, after.wall_s - before.wall_s)
        own = (after.own_s - before.own_s) / wall_s
        every = (after.all_s - before.all_s) / wall_s
        return cls(own, max(0.0, every - own), (after.stolen_s - before.stolen_s) / wall_s)


def family(pid: int) -> frozenset[Member]:
    """The process and its descendants, as far as they run."""
    return frozenset(member for each in _tree(pid) if (member := Member.of(each)))


def peak_rss_mib(pid: int) -> float:
    """Sum of the largest resident sizes of a process and its descendants; shared pages count in each."""
    return sum(_peak_kib(each) for each in _tree(pid)) / 1024


def _tree(pid: int) -> list[int]:
    found = [pid]
    for task in (PROC / str(pid) / "task").glob("*/children"):
        try:
            children = task.read_text().split()
        except OSError:
            continue
        for child in children:
            found += _tree(int(child))
    return found


def _stat(pid: int) -> list[str]:
    """The fields of /proc/PID/stat from the third, the state, on: the second may hold blanks."""
    try:
        return (PROC / str(pid) / "stat").read_text().rsplit(")", 1)[1].split()
    except (OSError, IndexError):
        return []


def _cpu_ticks(pid: int) -> int:
    """Of the process and of those children that it has waited for."""
    fields = _stat(pid)
    return sum(map(int, fields[11:15])) if fields else 0


def _peak_kib(pid: int) -> int:
    try:
        lines = (PROC / str(pid) / "status").read_text("utf-8", "replace").splitlines()
    except OSError:
        return 0
    return next((int(line.split()[1]) for line in lines if line.startswith("VmHWM:")), 0)
