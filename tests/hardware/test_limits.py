"""What this process may use."""

from pathlib import Path

import pytest

from fullbore.hardware import limits


def test_this_machine_has_memory_and_cores() -> None:
    assert limits.free_memory_bytes() > 1 << 20
    assert limits.usable_cores() >= 1


def test_a_containers_limits_count(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    group = tmp_path
    monkeypatch.setattr(limits, "_CGROUP", group)
    unlimited = limits.free_memory_bytes(), limits.usable_cores()
    (group / "memory.max").write_text("max\n")
    (group / "memory.current").write_text("5000\n")
    (group / "cpu.max").write_text("max 100000\n")
    assert limits.usable_cores() == unlimited[1]
    (group / "memory.max").write_text("9000\n")
    (group / "memory.stat").write_text("anon 4000\ninactive_file 300\nactive_file 200\n")
    (group / "cpu.max").write_text("50000 100000\n")
    assert limits.free_memory_bytes() == 4500
    assert limits.usable_cores() == 1
