"""What joins the GPUs of this machine, as drivers tell. Imports no torch.

AMD's driver has it in sysfs, NVIDIA's in ``nvidia-smi``.
"""

import re
import shutil
import subprocess
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

ROOT = Path("/")
_XGMI = 11  # a link's type in AMD's topology tables (kfd_crat.h in Linux)
_PATIENCE_S = 20.0

Tool = Callable[[Sequence[str]], str]  # a command's output, "" where it cannot be had


@dataclass(frozen=True)
class Interconnect:
    """``topology``: mesh (a link to every other GPU), switch (all bandwidth to any), pcie (through the
    host); "" for one GPU alone. ``bytes_s``: of one GPU to all others, one way, as the driver states; 0 where
    it does not. ``text``: for people.
    """

    topology: str
    bytes_s: float
    text: str


ALONE = Interconnect("", 0.0, "")


def run_tool(command: Sequence[str]) -> str:
    """The command's output; "" where it is not installed or fails."""
    if shutil.which(command[0]) is None:
        return ""
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=_PATIENCE_S, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return done.stdout if done.returncode == 0 else ""


def interconnect(root: Path = ROOT, tool: Tool = run_tool) -> Interconnect:
    """Of the GPUs that a driver knows."""
    return _amd(root) or _nvidia(tool) or ALONE


def _nvidia(tool: Tool) -> Interconnect | None:
    """By the matrix of ``topo -m``, whose NV18 counts links, and the speed of each in ``nvlink -s``."""
    table = tool(("nvidia-smi", "topo", "-m"))
    rows = re.findall(r"^GPU\d+\s+(.*)$", table, re.MULTILINE)
    count = len(rows)
    if count < 2:
        return None
    cells = [cell for row in rows for cell in row.split()[:count] if cell != "X"]
    links = [int(cell[2:]) for cell in cells if re.fullmatch(r"NV\d+", cell)]
    if len(links) < len(cells):
        kinds = ", ".join(sorted(set(cells)))
        return Interconnect("pcie", 0.0, f"{count} GPUs, not all joined by NVLink ({kinds})")
    speeds = re.findall(r"Link \d+: ([\d.]+) GB/s", tool(("nvidia-smi", "nvlink", "-s", "-i", "0")))
    rate = sum(map(float, speeds)) * 1e9
    told = f", {len(speeds)} links of {speeds[0]} GB/s each" if speeds else ""
    return Interconnect("switch", rate, f"{count} GPUs, each joined to each by {min(links)} NVLinks{told}")


def _amd(root: Path) -> Interconnect | None:
    """By the links of each node of the topology that has compute units; bandwidths there are in MB/s."""
    nodes = {
        int(folder.name): folder
        for folder in (root / "sys/class/kfd/kfd/topology/nodes").glob("*")
        if _properties(folder / "properties").get("simd_count", 0) > 0
    }
    if len(nodes) < 2:
        return None
    links = [
        link
        for folder in nodes.values()
        for kind in ("io_links", "p2p_links")
        for file in (folder / kind).glob("*/properties")
        if (link := _properties(file)).get("node_to") in nodes
    ]
    fast = [link for link in links if link.get("type") == _XGMI]
    joined = {(link.get("node_from"), link.get("node_to")) for link in fast}
    if len(joined) < len(nodes) * (len(nodes) - 1):
        return Interconnect("pcie", 0.0, f"{len(nodes)} GPUs, not all joined by xGMI")
    first = min(nodes)
    rate = sum(1e6 * link.get("max_bandwidth", 0) for link in fast if link.get("node_from") == first)
    told = f", {rate / 1e9:.0f} GB/s in all" if rate else ""
    return Interconnect("mesh", rate, f"{len(nodes)} GPUs, each joined to each by xGMI{told}")


def _properties(file: Path) -> dict[str, int]:
    """Lines of a name and a whole number; empty where the file cannot be read."""
    try:
        lines = file.read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return {}
    words = (line.split() for line in lines)
    return {word[0]: int(word[1]) for word in words if len(word) == 2 and word[1].isdecimal()}
