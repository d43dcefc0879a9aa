"""What the system says of GPUs, without their libraries: Linux's files alone. Imports no torch."""

import importlib.util
import os
import re
from dataclasses import dataclass
from pathlib import Path

ROOT = Path("/")
_AMD = "0x1002"  # PCI vendor


@dataclass(frozen=True)
class SystemGpu:
    """``name``: as its driver calls it, or its PCI numbers. ``bus``: PCI address, 0000:05:00.0.

    limiter: state of AMD's peak tops limiter, which lowers the clock so that products stay under a limit:
    ``enabled (I8,F32)``, ``disabled``, or "" where the driver tells of none.
    """

    name: str
    bus: str
    driver: str
    limiter: str = ""


def system_gpus(root: Path = ROOT) -> tuple[SystemGpu, ...]:
    """Those that a driver has, in order of bus address."""
    return tuple(sorted((*_nvidia(root), *_amd(root)), key=lambda gpu: gpu.bus))


def interpreted() -> bool:
    """Whether kernels for GPUs run in Triton's interpreter, on the CPU."""
    return os.environ.get("TRITON_INTERPRET", "0") not in ("", "0")


def probable_kind(device: str, root: Path = ROOT) -> str:
    """What ``find_device(device)`` will most likely find, at a look: cpu or cuda."""
    if device != "auto":
        return device
    able = importlib.util.find_spec("triton") is not None and not interpreted()
    return "cuda" if able and system_gpus(root) else "cpu"


def _nvidia(root: Path) -> list[SystemGpu]:
    """As the driver's files under /proc tell."""
    told = _read(root / "proc/driver/nvidia/version")
    found = re.search(r"Module[^\n]*?\s(\d{3,}\.[\d.]+)", told)
    driver = f"nvidia {found[1]}" if found else "nvidia"
    gpus = []
    for file in (root / "proc/driver/nvidia/gpus").glob("*/information"):
        fields = dict(re.findall(r"^([^:\n]+):\s*(.*?)\s*$", _read(file), re.MULTILINE))
        gpus.append(SystemGpu(fields.get("Model", "NVIDIA GPU"), file.parent.name, driver))
    return gpus


def _amd(root: Path) -> list[SystemGpu]:
    """As sysfs tells (Documentation/gpu/amdgpu in Linux; the limiter: ptl.rst there, from Linux 7.2 on and in
    AMD's own driver)."""
    version = _read(root / "sys/module/amdgpu/version") or _read(root / "proc/sys/kernel/osrelease")
    gpus = []
    for card in (root / "sys/class/drm").glob("card*"):
        device = card / "device"
        if not re.fullmatch(r"card\d+", card.name) or _read(device / "vendor") != _AMD:
            continue
        number = _read(device / "device").removeprefix("0x")
        name = _read(device / "product_name") or f"AMD 1002:{number}"
        gpus.append(SystemGpu(name, device.resolve().name, f"amdgpu {version}", _limiter(device / "ptl")))
    return gpus


def _limiter(folder: Path) -> str:
    state, formats = _read(folder / "ptl_enable"), _read(folder / "ptl_format")
    return f"{state} ({formats})" if state == "enabled" and formats else state


def _read(file: Path) -> str:
    """The text of a file of the system; "" where it cannot be read."""
    try:
        return file.read_text(encoding="utf-8", errors="replace").strip()
    except OSError:
        return ""
