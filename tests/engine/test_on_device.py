"""The whole engine on the kernels for GPUs, in Triton's interpreter (TRITON_INTERPRET=0: on a GPU)."""

from pathlib import Path

import pytest
from tiny_checkpoint import write_checkpoint

from fullbore.engine.offline import answers
from fullbore.errors import UsageError
from fullbore.hardware.device import CPU, find_device
from fullbore.model.load import load_model

PROMPTS = [[1, 5, 9, 20], [3, 4, 5, 6, 7, 8, 9, 10, 11]]


@pytest.mark.parametrize("cache", ["auto", "fp8"])
def test_answers_are_those_of_the_cpu(tmp_path: Path, cache: str) -> None:
    pytest.importorskip("triton", reason="triton is not installed (pip install 'fullbore[gpu]')")
    folder = write_checkpoint(tmp_path)
    told = [
        answers(load_model(folder, "bfloat16", kv_cache_dtype=cache, device=device), PROMPTS, 4)
        for device in (CPU, find_device("cuda"))
    ]
    assert told[0] == told[1]


def test_a_gpu_that_is_not_there_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TRITON_INTERPRET", "0")
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    assert find_device("auto") == CPU
    with pytest.raises(UsageError, match=r"--device cuda: .*\(or use --device cpu\)"):
        find_device("cuda")


def test_float32_is_refused_on_a_gpu(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="--dtype float32: kernels for GPUs compute in bfloat16"):
        load_model(write_checkpoint(tmp_path), "float32", device=find_device("cuda"))
