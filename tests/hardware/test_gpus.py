"""What Linux's files say of GPUs, from copies of such files."""

from pathlib import Path

import pytest

from fullbore.hardware import fingerprint
from fullbore.hardware.fingerprint import differences, machine_fingerprint
from fullbore.hardware.gpus import SystemGpu, probable_kind, system_gpus
from fullbore.hardware.interconnect import ALONE, interconnect

# Of drivers' own formats: /proc/driver/nvidia, and `nvidia-smi topo -m` and `nvlink -s` beside it.
VERSION = """NVRM version: NVIDIA UNIX Open Kernel Module for x86_64  580.95.05  Release Build
GCC version:  gcc version 12.3.0 (Ubuntu 12.3.0-1ubuntu1~22.04)
"""
INFORMATION = """Model: \t\t NVIDIA H200
IRQ:   \t\t 512
GPU UUID: \t GPU-00000000-0000-0000-0000-000000000000
Bus Type: \t PCIe
Bus Location: \t 0000:19:00.0
"""
NO_TOOL = lambda command: ""  # noqa: E731


def write(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)


def nvidia(root: Path, count: int = 1) -> Path:
    write(root / "proc/driver/nvidia/version", VERSION)
    for number in range(count):
        write(root / f"proc/driver/nvidia/gpus/0000:{number + 0x19:02x}:00.0/information", INFORMATION)
    return root


def amd(root: Path, limiter: str = "", name: str = "AMD Instinct MI308X OAM") -> Path:
    write(root / "sys/module/amdgpu/version", "6.14.14\n")
    device = root / "sys/devices/pci0000:00/0000:05:00.0"
    write(device / "vendor", "0x1002\n")
    write(device / "device", "0x74a2\n")
    if name:
        write(device / "product_name", f"{name}\n")
    if limiter:
        write(device / "ptl/ptl_enable", f"{limiter}\n")
        write(device / "ptl/ptl_format", "I8,F32\n")
    card = root / "sys/class/drm/card1"
    card.mkdir(parents=True)
    (card / "device").symlink_to(device)
    (root / "sys/class/drm/card1-DP-1").mkdir()
    return root


def kfd(root: Path, gpus: int, kind: int = 11) -> Path:
    nodes = root / "sys/class/kfd/kfd/topology/nodes"
    write(nodes / "0/properties", "cpu_cores_count 96\nsimd_count 0\n")
    for here in range(1, gpus + 1):
        write(nodes / f"{here}/properties", "simd_count 1216\ngfx_target_version 90402\n")
        for place, there in enumerate(range(gpus + 1)):
            if there != here:
                told = (
                    f"type {kind if there else 2}\nnode_from {here}\nnode_to {there}\nmax_bandwidth 64000\n"
                )
                write(nodes / f"{here}/io_links/{place}/properties", told)
    return root


def test_no_gpu_is_none(tmp_path: Path) -> None:
    assert system_gpus(tmp_path) == ()
    assert probable_kind("auto", tmp_path) == "cpu"
    assert interconnect(tmp_path, NO_TOOL) == ALONE


def test_nvidia_tells_model_and_driver(tmp_path: Path) -> None:
    first, second = system_gpus(nvidia(tmp_path, 2))
    assert first == SystemGpu("NVIDIA H200", "0000:19:00.0", "nvidia 580.95.05")
    assert second.bus == "0000:1a:00.0"


@pytest.mark.parametrize(
    ("limiter", "told"), [("enabled", "enabled (I8,F32)"), ("disabled", "disabled"), ("", "")]
)
def test_amd_tells_its_limiter(limiter: str, told: str, tmp_path: Path) -> None:
    (gpu,) = system_gpus(amd(tmp_path, limiter))
    assert gpu == SystemGpu("AMD Instinct MI308X OAM", "0000:05:00.0", "amdgpu 6.14.14", told)


def test_a_gpu_without_a_name_has_its_numbers(tmp_path: Path) -> None:
    assert system_gpus(amd(tmp_path, name=""))[0].name == "AMD 1002:74a2"


def test_a_flag_is_taken_at_its_word_and_auto_looks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: object())
    monkeypatch.setenv("TRITON_INTERPRET", "0")
    assert probable_kind("cpu", nvidia(tmp_path)) == "cpu"
    assert probable_kind("cuda", tmp_path / "none") == "cuda"
    assert probable_kind("auto", tmp_path) == "cuda"
    monkeypatch.setenv("TRITON_INTERPRET", "1")
    assert probable_kind("auto", tmp_path) == "cpu"


def test_times_of_one_gpu_are_not_another_s(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TRITON_INTERPRET", "0")

    def of(*gpus: SystemGpu) -> dict[str, str]:
        monkeypatch.setattr(fingerprint, "system_gpus", lambda: gpus)
        return dict(machine_fingerprint(8, "cuda"))

    h200 = SystemGpu("NVIDIA H200", "0000:19:00.0", "nvidia 580.95.05")
    ours = of(h200, SystemGpu("NVIDIA H200", "0000:1a:00.0", "nvidia 580.95.05"))
    assert ours == of(h200), "one of them computes"
    assert ours["gpu"] == "NVIDIA H200"
    assert machine_fingerprint(4, "cuda") == machine_fingerprint(8, "cuda"), "the CPU has no part in it"
    for other, what in (
        (SystemGpu("NVIDIA H20", "0000:19:00.0", "nvidia 580.95.05"), "gpu"),
        (SystemGpu("NVIDIA H200", "0000:19:00.0", "nvidia 590.1"), "driver"),
        (SystemGpu("NVIDIA H200", "0000:19:00.0", "nvidia 580.95.05", "enabled (I8,F32)"), "limiter"),
    ):
        (told,) = differences(ours, of(other))
        assert told.startswith(f"{what} ")
    of(h200)
    monkeypatch.setenv("TRITON_INTERPRET", "1")
    assert machine_fingerprint(8, "cuda")["gpu"] == "Triton's interpreter"


def topo(count: int, cell: str) -> str:
    names = "\t".join(f"GPU{number}" for number in range(count))
    rows = [
        "\t".join([f"GPU{row}", *(" X " if row == column else cell for column in range(count)), "0-51", "0"])
        for row in range(count)
    ]
    return "\n".join(["\t" + names + "\tCPU Affinity\tNUMA Affinity", *rows, "", "Legend:", "  X = Self"])


@pytest.mark.parametrize(
    ("cell", "topology", "rate"),
    [("NV18", "switch", 18 * 26.562e9), ("PIX", "pcie", 0.0), ("SYS", "pcie", 0.0)],
)
def test_nvidia_tells_its_links(cell: str, topology: str, rate: float, tmp_path: Path) -> None:
    speeds = "GPU 0: NVIDIA H200 (UUID: GPU-0)\n" + "".join(f"\t Link {n}: 26.562 GB/s\n" for n in range(18))
    found = interconnect(tmp_path, lambda command: topo(8, cell) if "topo" in command else speeds)
    assert (found.topology, found.bytes_s) == (topology, pytest.approx(rate))
    assert "8 GPUs" in found.text


def test_one_gpu_has_no_links(tmp_path: Path) -> None:
    assert interconnect(tmp_path, lambda command: topo(1, "")) == ALONE
    assert interconnect(kfd(tmp_path, 1), NO_TOOL) == ALONE


@pytest.mark.parametrize(("kind", "topology", "rate"), [(11, "mesh", 7 * 64e9), (2, "pcie", 0.0)])
def test_amd_tells_its_links(kind: int, topology: str, rate: float, tmp_path: Path) -> None:
    found = interconnect(kfd(tmp_path, 8, kind), NO_TOOL)
    assert (found.topology, found.bytes_s) == (topology, pytest.approx(rate))


def test_a_tool_that_fails_tells_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tool = tmp_path / "nvidia-smi"
    tool.write_text("#!/bin/sh\necho GPU0\nexit 9\n")
    tool.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=":")
    assert interconnect(tmp_path) == ALONE
