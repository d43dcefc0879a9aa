"""The benchmark of a GPU without one: its shapes, floors and sums, and one operator in the interpreter."""

import importlib.util
import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar

import pytest
import torch

from benchmarks.gpu.__main__ import SMALL, main
from benchmarks.gpu.operators import Bench, Point, Row, measure
from benchmarks.gpu.parts import LAYOUTS, parts
from benchmarks.gpu.rank import links_ms, rank_step
from benchmarks.gpu.rivals import recorded
from fullbore.errors import UsageError
from fullbore.hardware.ceiling import Ceiling
from fullbore.ops.contract import Kernel
from fullbore.ops.norm import ADD_RMS_NORM
from fullbore.ops.registry import Entry, Registry
from fullbore.tune.timing import ClockTimer

H200 = Ceiling(4.8e12, {"bfloat16": 989e12, "fp8": 1979e12})


class Right(Kernel):
    """Its operator's own reference, as if on a GPU."""

    name: ClassVar[str] = "right"
    operator: ClassVar[str] = "add_rms_norm"
    layout: ClassVar[str] = "none"
    devices: ClassVar[tuple[str, ...]] = ("cuda",)
    formats: ClassVar[tuple[str, ...]] = ("none",)
    dtypes: ClassVar[tuple[str, ...]] = ("bfloat16",)

    def pack(self, *weights: Any) -> Any:
        return tuple(each.clone() if isinstance(each, torch.Tensor) else each for each in weights)

    def run(self, packed: Any, *inputs: Any) -> Any:
        total, y = ADD_RMS_NORM.reference(packed, *inputs)
        return total.to(inputs[0].dtype), y.to(inputs[0].dtype)


class Wrong(Right):
    name = "wrong"

    def run(self, packed: Any, *inputs: Any) -> Any:
        total, y = super().run(packed, *inputs)
        return total, y * 1.5


def bench(told: list[str], until: float = float("inf")) -> Bench:
    entries = [
        Entry("add_rms_norm", k.name, f"test_gpu_benchmark:{k.__name__}", ("cuda",)) for k in (Right, Wrong)
    ]
    return Bench(Registry(entries), "cpu", ClockTimer(), None, H200, 1, SMALL.effort, until, told.append)


def norms() -> list[tuple[str, Any]]:
    return [("tp1", part) for part in parts("tiny", "tp1") if part.name == "add_rms_norm"]


def test_only_what_is_right_is_timed_and_the_rest_is_named() -> None:
    told: list[str] = []
    rows = [
        row for some in measure(norms(), lambda part: [Point(2, 0), Point(5, 0)], bench(told)) for row in some
    ]
    assert [(row.kernel, row.batch) for row in rows] == [("wrong", 0), ("right", 2), ("right", 5)]
    assert rows[0].refused.startswith("refused: its error is")
    assert rows[0].refused in told[0]
    assert all(row.us > 0 and row.floor_us > 0 for row in rows[1:])
    assert rows[1].fraction == rows[1].floor_us / rows[1].us


def test_what_time_does_not_allow_is_said() -> None:
    told: list[str] = []
    assert list(measure(norms(), lambda part: [Point(2, 0)], bench(told, until=0.0))) == []
    assert told == ["out of time: tp1 add_rms_norm not measured"]


def weight_bytes(layout: str) -> float:
    """What a step of very many tokens reads, less what grows with them."""
    rows = [part for part in parts("deepseek-v3", layout) if part.layer.job.format != "none"]
    many, more = 1 << 20, 1 << 21
    once = [p for p in rows if p.layer.job.operator not in ("embed", "mla_prefill")]
    return sum(p.calls * (2 * p.cost(many, 0).bytes - p.cost(more, 0).bytes) for p in once)


def test_a_rank_holds_an_eighth_of_the_model() -> None:
    """671 GB of weights, of which q_a, kv_a and the gates are on every rank."""
    assert 0.98 < weight_bytes("tp8") / 85e9 < 1.02
    assert weight_bytes("ep8dp8") > weight_bytes("tp8"), "attention, shared and dense matrices are whole"


@pytest.mark.parametrize("layout", LAYOUTS)
def test_floors_add_up_to_a_step(layout: str) -> None:
    step = sum(
        part.calls * part.floor_us(H200, part.tokens(158), 640 if part.name == "attention" else 0)
        for part in parts("deepseek-v3", layout)
        if part.name != "mla_prefill"
    )
    assert 18.5e3 < step < 21e3, "19.0 ms were counted by hand, without activations"


def test_a_layout_that_cannot_be_is_refused() -> None:
    with pytest.raises(UsageError, match="cannot be cut in 8 equal parts"):
        parts("tiny", "tp8")
    with pytest.raises(UsageError, match="use some of tp8, ep8dp8"):
        parts("tiny", "tp7")


def test_records_are_found_between_and_not_beyond() -> None:
    at, between = recorded("q_b", "tp8", 128, 0), recorded("q_b", "tp8", 158, 0)
    assert {each.engine.split()[0] for each in at} == {"SGLang", "TRTLLM"}
    assert not any(each.between for each in at)
    assert all(each.between for each in between)
    after = recorded("q_b", "tp8", 256, 0)
    for low, middle, high in zip(at, between, after, strict=True):
        assert min(low.us, high.us) <= middle.us <= max(low.us, high.us)
    assert recorded("q_b", "tp8", 4096, 0) == ()
    assert recorded("rope", "tp8", 128, 0) == ()
    assert all(each.us > 0 for each in recorded("attention", "ep8dp8", 158, 640))


def row(part: str, kernel: str, us: float, calls: int = 61, batch: int = 158, context: int = 0) -> Row:
    return Row("tp8", part, kernel, batch, batch, context, calls, us, us, us, us / 2, "read", 1, 1)


def test_a_step_is_the_sum_of_its_fastest_and_says_what_it_lacks() -> None:
    rows = [row("o", "a", 12.0), row("o", "b", 10.0), row("attention", "a", 30.0, context=640)]
    rows += [row("attention", "a", 300.0, context=2560), row("q_b", "a", 1.0, batch=128)]
    rows += [replace(row("head", "a", 1.0), us=0.0, refused="wrong")]
    step = rank_step("tp8", ["o", "attention", "q_b", "head"], rows, 158, 640)
    assert step.operators_ms == pytest.approx(61 * 40e-3)
    assert step.floor_ms == pytest.approx(61 * 20e-3)
    assert step.missing == ("q_b", "head")
    assert step.total_ms == step.operators_ms + links_ms("tp8", 158, 640) > step.operators_ms


def test_floors_are_printed_without_a_gpu(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--only", "floors", "--parts", "experts"]) == 0
    assert capsys.readouterr().out.count("experts") == 2 * len(LAYOUTS)


def test_what_is_misspelt_is_refused(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    assert main(["--only", "floor"]) == 2
    assert "did you mean floors?" in capsys.readouterr().err
    assert main(["--json", str(tmp_path / "none" / "x.json")]) == 2


@pytest.mark.skipif(
    importlib.util.find_spec("triton") is None, reason="triton is not installed (pip install 'fullbore[gpu]')"
)
def test_it_runs_in_the_interpreter(tmp_path: Path) -> None:
    path = tmp_path / "gpu.json"
    words = ["--config", "tiny", "--only", "operators", "--parts", "add_rms_norm", "--json", str(path)]
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks.gpu", *words], capture_output=True, text=True, check=False,
        env={**os.environ, "TRITON_INTERPRET": "1"},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    told = json.loads(path.read_text())
    assert "nothing here is a time of a GPU" in told["meaningless"]
    assert {row["kernel"] for row in told["operators"]} >= {"triton"}
    assert all(row["floor_us"] > 0 for row in told["operators"])
