"""The operators' benchmark: real sizes, kernels in turns, and figures that follow from its readings."""

import json
import time
from dataclasses import replace
from pathlib import Path

import fake_kernels
import pytest
import torch
from fake_kernels import Clock
from torch import Generator

from benchmarks.layers import Layer, draw_inputs, draw_weights, fewer_experts, layers
from benchmarks.measuring import Bench, able, measure
from benchmarks.operators import as_json, main
from fullbore.hardware.ceiling import Probes
from fullbore.kernels.catalogue import CATALOGUE
from fullbore.model.checkpoint import Checkpoint
from fullbore.model.config import load_config
from fullbore.model.make_checkpoint import config_fields, make_checkpoint
from fullbore.model.workload import workload
from fullbore.ops.contract import Job
from fullbore.ops.demand import attends
from fullbore.ops.operators import OPERATORS
from fullbore.tune.timing import Effort

FORMATS = ("fp8_block", "bf16")
ALL = tuple(OPERATORS)


def one(model: str, operator: str, format: str = "fp8_block") -> Layer:
    return next(layers(model, (operator,), (format,), ("bfloat16",)))


def bench(*kernels: str) -> Bench:
    probes = Probes(read=lambda: 10e9, peak=lambda dtype: 1e12)
    effort = Effort(seconds=0.0, least=4, most=4)
    return Bench(fake_kernels.registry(*kernels), probes, 1 << 20, 1 << 30, effort, 1.0, Clock.read)


def test_the_sizes_are_those_of_a_checkpoint(tmp_path: Path) -> None:
    make_checkpoint(tmp_path, config_fields("tiny", ["num_nextn_predict_layers=0"]))
    config = load_config(tmp_path)
    real = workload(config, Checkpoint.open(tmp_path, config), "bfloat16")
    shown = list(layers("tiny", ALL, FORMATS, ("bfloat16",)))
    assert {(layer.job.operator, layer.job.shape) for layer in shown} == {
        (job.operator, job.shape) for job in real.jobs
    }
    assert set(real.jobs) <= {layer.job for layer in shown}


def test_the_large_model_has_its_published_sizes() -> None:
    shapes = {
        (layer.job.operator, *sorted(dict(layer.job.shape).values()))
        for layer in layers("deepseek-v3", ALL, FORMATS, ("bfloat16",))
    }
    assert {
        ("moe_ffn", 256, 2048, 2048, 7168),  # the shared expert is as wide as a routed one
        ("linear", 1536, 24576),  # queries
        ("linear", 7168, 16384),  # output of attention
        ("mla_decode", 64, 128, 128, 128, 512),
        ("swiglu", 7168, 18432),  # the dense layers
    } <= shapes


@pytest.mark.parametrize("bytes_", [1, 50 << 20, 1 << 60])
def test_experts_fit_the_memory_but_suffice_for_a_token(bytes_: int) -> None:
    whole = one("bench-1b5", "moe_ffn")
    layer = fewer_experts(whole, bytes_, bytes_per_value=2)
    experts = dict(layer.job.shape)["experts"]
    assert whole.sizes["k"] <= experts <= 64
    assert experts == 64 or bool(layer.cut)
    each = 3 * 1024 * 512 * 2
    assert experts == whole.sizes["k"] or experts * each <= bytes_


@pytest.mark.parametrize("operator", ALL)
@pytest.mark.parametrize("format", FORMATS)
def test_what_is_drawn_is_what_the_job_says(operator: str, format: str) -> None:
    for layer in layers("tiny", (operator,), (format,), ("float32",)):
        generator = Generator().manual_seed(1)
        weights = draw_weights(layer, generator)
        assert Job.of(OPERATORS[operator], weights, "float32", "cpu") == layer.job
        (kernel,), _ = able(layer, CATALOGUE, ("torch",))
        packed = kernel("float32").pack(*weights)
        inputs = draw_inputs(layer, 3, 5 if attends(layer.job) else 0, generator)
        kernel("float32").run(packed, *inputs)


def test_figures_follow_from_the_readings() -> None:
    layer = one("tiny", "add_rms_norm")
    here = bench("quick", "slow")
    kernels, _ = able(layer, here.registry, ())
    (rows,) = measure(layer, kernels, (8,), (), here)
    assert [(row.kernel, round(row.time.median_us, 6)) for row in rows] == [("quick", 100), ("slow", 200)]
    for row in rows:
        assert row.floor_us == pytest.approx(1e6 * max(row.bytes / 10e9, row.flops / 1e12))
        assert row.fraction == pytest.approx(row.floor_us / row.time.median_us)
        assert row.gb_s == pytest.approx(row.bytes / (row.time.median_us * 1e-6) / 1e9)
        assert row.bound == "read"
        assert row.steady


def test_kernels_take_turns() -> None:
    layer = one("tiny", "add_rms_norm")
    here = bench("quick", "slow")
    kernels, _ = able(layer, here.registry, ())
    Clock.calls = ()
    list(measure(layer, kernels, (8,), (), here))
    assert Clock.calls[-8:] == ("quick", "slow") * 4


def test_a_ceiling_that_moved_is_marked() -> None:
    speeds = iter((10e9, 20e9))
    moving = Probes(read=lambda: next(speeds), peak=lambda dtype: 1e12)
    layer, here = one("tiny", "add_rms_norm"), replace(bench("quick"), probes=moving)
    (rows,) = measure(layer, able(layer, here.registry, ())[0], (8,), (), here)
    assert not rows[0].steady
    assert rows[0].read_gb_s == pytest.approx(15)


def test_a_call_beyond_patience_is_read_once() -> None:
    layer, here = one("tiny", "add_rms_norm"), replace(bench("quick", "slow"), patience_s=150e-6)
    rows = next(measure(layer, able(layer, here.registry, ())[0], (8,), (), here))
    assert [row.time.repeats for row in rows] == [4, 1]


def test_a_kernel_that_cannot_is_told_with_its_reason() -> None:
    kernels, reasons = able(
        one("tiny", "add_rms_norm"), fake_kernels.registry("quick", "unfit", "absent"), ()
    )
    assert [kernel.name for kernel in kernels] == ["quick"]
    assert any("needs a moon phase" in reason for reason in reasons)
    assert any("absent add_rms_norm: cannot be imported" in reason for reason in reasons)


def test_touched_experts_are_those_that_were_drawn() -> None:
    """With one token k experts are read, whatever the expectation over routings says."""
    layer = one("tiny", "moe_ffn")
    kernels, _ = able(layer, CATALOGUE, ("torch",))
    (rows,) = measure(layer, kernels, (1,), (), replace(bench(), clock=time.perf_counter))
    shape = {**dict(layer.job.shape), "tokens": 1, "k": layer.sizes["k"]}
    exact = OPERATORS["moe_ffn"].cost({**shape, "touched": layer.sizes["k"]}, "fp8_block", "bfloat16")
    assert rows[0].bytes == exact.bytes


RUN = ("--models", "tiny", "--operators", "add_rms_norm", "--seconds", "0.01", "--readings", "1")


def test_ctrl_c_prints_and_writes_what_there_is(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "rows.json"
    argv = [*RUN, "--tokens", "2,4", "--json", str(path)]
    assert main(argv, fake_kernels.registry("stopping")) == 130
    assert "stopping" in capsys.readouterr().out
    (row,) = json.loads(path.read_text())["rows"]
    assert (row["tokens"], row["kernel"]) == (2, "stopping")


def test_a_run_writes_every_row(tmp_path: Path) -> None:
    path = tmp_path / "rows.json"
    threads = torch.get_num_threads()
    assert main([*RUN, "--tokens", "1,8", "--json", str(path)], fake_kernels.registry("quick", "slow")) == 0
    torch.set_num_threads(threads)
    written = json.loads(path.read_text())
    sizes = {
        dict(layer.job.shape)["width"] for layer in layers("tiny", ("add_rms_norm",), FORMATS, ("float32",))
    }
    assert len(written["rows"]) == len(sizes) * 2 * 2
    assert written["schema"] == as_json([], 1)["schema"]


@pytest.mark.parametrize(
    ("flag", "word", "meant"),
    [
        ("--operators", "mla_decod", "mla_decode"),
        ("--formats", "fp8_blok", "fp8_block"),
        ("--kernels", "torhc", "torch"),
    ],
)
def test_a_misspelt_name_is_refused_at_once(
    flag: str, word: str, meant: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([flag, word]) == 2
    assert f"did you mean {meant}?" in " ".join(capsys.readouterr().err.split())
