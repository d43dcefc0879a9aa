"""Loading: one tensor at a time, memory bounded, progress told, errors before any weight is read."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from small_models import DictSource, PagedRun, random_weights, small_config

from fullbore.errors import CapacityError, CheckpointError, UsageError
from fullbore.kernels.torch import KERNELS as TORCH
from fullbore.model.load import build, load_model
from fullbore.model.make_checkpoint import config_fields, make_checkpoint
from fullbore.ops.registry import Registry

UNPADDED = Registry(TORCH)  # kernels that keep matrices as they are, and one matrix for all its users
SMALL = ["hidden_size=64", "vocab_size=512", "num_nextn_predict_layers=1"]

# Peak resident memory of loading, less what the imports and a first touch of torch already hold.
MEASURE = """
import json, sys
from pathlib import Path
import torch
from fullbore.model.load import load_model

def status(field):
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(field + ":"):
            return int(line.split()[1]) * 1024

torch.set_num_threads(1)
(torch.zeros(64, 64) @ torch.zeros(64, 64)).exp()
Path("/proc/self/clear_refs").write_text("5")
before = status("VmRSS")
model = load_model(Path(sys.argv[1]), "float32")
print(json.dumps({"before": before, "peak": status("VmHWM"), "after": status("VmRSS"), "bytes": model.bytes}))
"""


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("small") / "model"
    make_checkpoint(folder, config_fields("tiny", SMALL, "fp8"), shard_bytes=300_000)
    return folder


@pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="reads Linux's /proc")
@pytest.mark.parametrize("format", ["fp8", "bf16"])
def test_peak_memory_stays_under_1_3_of_the_final_size(format: str, tmp_path: Path) -> None:
    sizes = [
        "hidden_size=1024", "num_hidden_layers=4", "moe_intermediate_size=512", "intermediate_size=2048",
        "n_routed_experts=24", "n_group=1", "topk_group=1", "num_experts_per_tok=2",
        "first_k_dense_replace=1",
    ]  # fmt: skip
    make_checkpoint(tmp_path / "model", config_fields("tiny", sizes, format))
    script = [sys.executable, "-c", MEASURE, str(tmp_path / "model")]
    ran = subprocess.run(script, capture_output=True, text=True, check=True, timeout=120)
    found = json.loads(ran.stdout)
    assert found["bytes"] > 120e6, "too small a model to tell"
    assert found["peak"] - found["before"] < 1.3 * found["bytes"]
    assert found["after"] - found["before"] < 1.1 * found["bytes"]


def test_progress_counts_bytes_to_the_end(checkpoint: Path) -> None:
    told: list[tuple[int, int]] = []
    model = load_model(checkpoint, "float32", lambda done, total: told.append((done, total)))
    done = [step[0] for step in told]
    assert done == sorted(done)
    assert len({step[1] for step in told}) == 1
    assert told[-1][0] == told[-1][1]
    assert told[-2][0] > 0.98 * told[-1][1], "the last jump must not hide what was never counted"
    assert len(model.mtp) == 1


def test_every_tensor_is_packed_once_and_released() -> None:
    config = small_config(num_nextn_predict_layers=1, kv_lora_rank=64, v_head_dim=64)
    source = DictSource(config, random_weights(config, 1))
    model = build(config, source, "float32", UNPADDED)
    assert set(source.released) == set(source.tensors)
    values = sum(tensor.numel() for tensor in source.tensors.values())
    assert 4 * values <= model.bytes <= 4 * values * 1.05  # sizes are rounded up


def test_the_model_keeps_nothing_of_what_it_was_given() -> None:
    """The mapped files may go away."""
    config = small_config(tie_word_embeddings=True)
    source = DictSource(config, random_weights(config, 1))
    model = build(config, source, "float32")
    (before,) = PagedRun(model, [[4, 5, 6]], 4, seed=1).finish([[3]])
    for tensor in source.tensors.values():
        tensor.zero_()
    (after,) = PagedRun(model, [[4, 5, 6]], 4, seed=1).finish([[3]])
    assert torch.equal(before, after)


def test_tied_embeddings_are_kept_once() -> None:
    tied, untied = (
        build(config, DictSource(config, random_weights(config, 1)), "float32", UNPADDED).bytes
        for config in (small_config(tie_word_embeddings=tie, vocab_size=5000) for tie in (True, False))
    )
    assert untied - tied == 5000 * 64 * 4


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_a_loaded_checkpoint_answers(checkpoint: Path, dtype: str) -> None:
    model = load_model(checkpoint, dtype)
    (logits,) = PagedRun(model, [[3, 4, 5, 6]], 16, seed=1).finish([[4]])
    assert logits.shape == (4, model.config.vocab_size)
    assert bool(logits.isfinite().all())
    assert model.new_cache(1, 1)[0].dtype == model.dtype == getattr(torch, dtype)


def test_an_unknown_dtype_is_refused_by_name(checkpoint: Path) -> None:
    with pytest.raises(UsageError, match="float16"):
        load_model(checkpoint, "float16")


def test_a_missing_tensor_is_refused_before_anything_is_read(checkpoint: Path, tmp_path: Path) -> None:
    for path in checkpoint.iterdir():
        (tmp_path / path.name).write_bytes(path.read_bytes())
    victim = sorted(tmp_path.glob("*.safetensors"))[1]
    victim.unlink()
    told: list[int] = []
    with pytest.raises(CheckpointError, match=victim.name):
        load_model(tmp_path, "float32", lambda done, total: told.append(done))
    assert not told


def test_the_selection_says_who_computes_and_why(checkpoint: Path) -> None:
    choices = load_model(checkpoint, "float32").selection.choices
    assert {job.operator for job in choices} == {
        "embed", "linear", "rms_norm", "add_rms_norm", "latents", "rope", "mla_prefill", "mla_decode",
        "route", "moe_ffn", "swiglu", "greedy",
    }  # fmt: skip
    assert all(choice.why and not choice.measured for choice in choices.values())
    assert {job.format for job in choices if job.operator == "moe_ffn"} == {"fp8_block"}


def test_a_model_that_cannot_fit_is_refused_before_it_is_read(
    checkpoint: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("fullbore.hardware.device.free_memory_bytes", lambda: 100_000)
    with pytest.raises(
        CapacityError, match=r"holds 0\.0 GiB of weights as stored, and 0\.0 GiB of memory are free"
    ):
        load_model(checkpoint)
