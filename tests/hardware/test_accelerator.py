"""A GPU as torch tells of it, and as an entry of the catalogue. torch's answers are made up."""

from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest

from fullbore.hardware import accelerator
from fullbore.hardware.accelerator import Accelerator, accelerators
from fullbore.hardware.catalogue import with_file
from fullbore.hardware.gpus import SystemGpu
from fullbore.hardware.interconnect import ALONE, Interconnect
from fullbore.hardware.machine import as_toml, describe
from fullbore.hardware.servers import find_server
from fullbore.tune.machine_command import page

H200 = SimpleNamespace(
    name="NVIDIA H200", total_memory=150_000_000_000, multi_processor_count=132, major=9, minor=0,
    L2_cache_size=60 << 20, pci_domain_id=0, pci_bus_id=0x19, pci_device_id=0,
)  # fmt: skip
MI308X = SimpleNamespace(
    name="AMD Instinct MI308X", total_memory=206_000_000_000, multi_processor_count=80, major=9, minor=4,
    gcnArchName="gfx942:sramecc+:xnack-", L2_cache_size=4 << 20,
)  # fmt: skip
MEASURED = {"read_bytes_s": 4.4e12, "flop_s": {"bfloat16": 7.9e14, "fp8": 1.5e15}}
NVLINK = Interconnect("switch", 478e9, "8 GPUs, each joined to each by 18 NVLinks")


def seen(monkeypatch: pytest.MonkeyPatch, told: SimpleNamespace, *system: SystemGpu) -> Accelerator:
    monkeypatch.setattr("torch.cuda.is_available", lambda: True)
    monkeypatch.setattr("torch.cuda.device_count", lambda: 1)
    monkeypatch.setattr("torch.cuda.get_device_properties", lambda index: told)
    monkeypatch.setattr(accelerator, "system_gpus", lambda: system)
    (found,) = accelerators()
    return found


def test_torch_and_the_system_tell_of_one_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    ours = SystemGpu("NVIDIA H200", "0000:19:00.0", "nvidia 580.95.05")
    found = seen(monkeypatch, H200, SystemGpu("NVIDIA L4", "0000:03:00.0", "nvidia 1"), ours)
    assert (found.architecture, found.cache_bytes, found.driver) == ("sm_90", 60 << 20, "nvidia 580.95.05")


def test_a_cache_beside_memory_counts_and_a_limiter_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    system = SystemGpu("AMD Instinct MI308X OAM", "0000:05:00.0", "amdgpu 6.14", "enabled (I8,F32)")
    found = seen(monkeypatch, MI308X, system)
    assert (found.architecture, found.cache_bytes) == ("gfx942", 256 << 20)
    told = page(describe(5e10, {"float32": 1e12}, (found,), "2026-01-02"))
    assert "peak tops limiter enabled (I8,F32)" in told


def test_none_is_none(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    assert accelerators() == ()


@pytest.mark.parametrize(
    ("links", "count", "topology", "link"),
    [
        (NVLINK, 8, "switch", 478e9),
        (ALONE, 1, "pcie", 4.4e12),
        (Interconnect("pcie", 0.0, "x"), 2, "pcie", 64e9),
    ],
)
def test_a_measured_gpu_is_the_entry(
    links: Interconnect,
    count: int,
    topology: str,
    link: float,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    gpu = seen(monkeypatch, H200)
    gpus = (replace(gpu, **MEASURED), *[gpu] * (count - 1))  # type: ignore[arg-type]
    made = replace(describe(5e10, {"float32": 1e12}, gpus, "2026-01-02", links), name="host-7")
    path = tmp_path / "here.toml"
    path.write_text(as_toml(made))
    server = find_server("host-7", with_file(path))
    device = server.device
    assert (server.count, device.topology, device.architecture, device.vendor) == (
        count, topology, "hopper", "nvidia",
    )  # fmt: skip
    assert device.fp8_flop_s is not None
    assert (device.bandwidth_bytes_s.value, device.fp8_flop_s.value) == pytest.approx((4.4e12, 1.5e15))
    assert device.link_bytes_s.value == pytest.approx(link)
    assert "4.40 TB/s" in page(made)
