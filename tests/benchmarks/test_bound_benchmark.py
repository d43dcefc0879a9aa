"""The roofline of a whole closed loop: it follows the ceilings, and never exceeds what they allow."""

from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from benchmarks.bound import bound, main
from fullbore.cli import main as fullbore
from fullbore.hardware.ceiling import Ceiling
from fullbore.model.checkpoint import Checkpoint
from fullbore.model.config import load_config
from fullbore.model.workload import workload
from fullbore.ops.demand import Workload


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("bound") / "tiny"
    assert fullbore(["make-checkpoint", str(folder), "--config", "tiny"]) == 0
    return folder


@pytest.fixture(scope="module")
def work(checkpoint: Path) -> Workload:
    opened = Checkpoint.open(checkpoint, load_config(checkpoint))
    return workload(opened.config, opened, "bfloat16")


@settings(deadline=None, max_examples=30, suppress_health_check=[HealthCheck.too_slow])
@given(st.integers(1, 64), st.floats(1e9, 1e12), st.floats(1e9, 1e15), st.integers(2, 64))
def test_it_follows_the_ceilings(
    work: Workload, concurrency: int, read: float, flops: float, outputs: int
) -> None:
    def at(factor: float) -> float:
        ceiling = Ceiling(read * factor, {"float32": flops * factor, "bfloat16": flops * factor})
        return bound(work, 16, outputs, concurrency, ceiling).output_tok_s

    assert at(2) == pytest.approx(2 * at(1))
    found = bound(work, 16, outputs, concurrency, Ceiling(read, {"float32": flops, "bfloat16": flops}))
    assert found.output_tok_s <= concurrency * 1e3 / found.decode_ms * outputs / (outputs - 1)


def test_the_table(checkpoint: Path, capsys: pytest.CaptureFixture[str]) -> None:
    machine = ["--read", "30", "--bfloat16", "200", "--int8", "500"]
    assert main([str(checkpoint), *machine, "--concurrency", "2,3", "--weights", "bf16,int8"]) == 0
    told = capsys.readouterr().out
    for words in ("reads 30.0 GB/s", "200 GFLOP/s in bfloat16", "500 GFLOP/s in int8"):
        assert words in " ".join(told.split())
    rows = [line.split() for line in told.splitlines()]
    assert [row[0] for row in rows if len(row) == 5 and row[1] in "23"] == ["bf16", "bf16", "int8", "int8"]


def test_a_folder_without_a_model_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([str(tmp_path)]) != 0
    assert str(tmp_path) in "".join(capsys.readouterr().err.split("\n"))
