"""The machine at hand as a catalogue entry: written, read again, and refused where it is none."""

from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fullbore import cli
from fullbore.errors import UsageError
from fullbore.hardware.catalogue import with_file
from fullbore.hardware.machine import Machine, as_toml, describe, entry_name
from fullbore.hardware.servers import find_server

FLOPS = {"float32": 1e12, "bfloat16": 2e12, "int8": 4e12}


def machine() -> Machine:
    return describe(50e9, FLOPS, (), "2026-01-02")


def written(folder: Path, text: str) -> Path:
    path = folder / "machine.toml"
    path.write_text(text, encoding="utf-8")
    return path


def test_what_is_written_is_read_again(tmp_path: Path) -> None:
    made = replace(machine(), name="host-7.lan")
    server = find_server("host-7.lan", with_file(written(tmp_path, as_toml(made))))
    assert (server.count, server.device.units) == (1, made.cores)
    assert server.device.bandwidth_bytes_s.value == pytest.approx(50e9)
    assert server.device.bf16_flop_s.value == pytest.approx(2e12)
    assert server.device.memory_bytes.value == pytest.approx(made.memory_bytes, rel=1e-2)
    assert server.device.bandwidth_bytes_s.mark == "measured"
    assert "2026-01-02" in server.device.bandwidth_bytes_s.source


def test_the_catalogue_is_still_there(tmp_path: Path) -> None:
    table = with_file(written(tmp_path, as_toml(machine())))
    assert find_server("8xmi300x", table) == find_server("8xmi300x")
    assert find_server("h20-768g", table) == find_server("h20-768g")


@given(st.text(max_size=80))
def test_any_host_has_a_name(text: str) -> None:
    name = entry_name(text)
    assert 0 < len(name) <= 40
    assert entry_name(name) == name


@pytest.mark.parametrize(
    ("before", "after", "words"),
    [
        ("[devices.", "[gadgets.", "devices"),
        ("memory_gb = [", "memory_gb = [-", "above 0"),
        ("units =", "unit =", "units"),
        ('device = "', 'device = "x', "not among its devices"),
        ("mark", "= mark", "no catalogue"),
    ],
)
def test_what_is_no_catalogue_is_refused(before: str, after: str, words: str, tmp_path: Path) -> None:
    path = written(tmp_path, as_toml(machine()).replace(before, after))
    with pytest.raises(UsageError, match=words):
        with_file(path)


def test_a_file_that_is_not_there_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="cannot be read"):
        with_file(tmp_path / "none.toml")


def test_the_verb_measures_and_writes(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "here.toml"
    assert cli.main(["inspect", "machine", "--write", str(path)]) == 0
    told = capsys.readouterr().out
    assert "GB/s, measured" in told
    assert with_file(path)["servers"]
