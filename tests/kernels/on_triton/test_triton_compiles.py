"""Every Triton kernel compiled for Hopper and CDNA3, without a GPU, at the shapes of one rank of the 671B."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("triton", reason="triton is not installed (pip install 'fullbore[gpu]')")

LOCAL_BYTES = {"sm_90": 227 << 10, "gfx942": 64 << 10}
REGISTERS = {"sm_90": 255, "gfx942": 512}
MULTIPLY = {"linear_tile", "gate_up_tile", "down_tile", "decode_tile", "prefill_tile"}


def compiled(gpu: str, *wanted: str, folder: Path) -> list[dict[str, Any]]:
    """In a process of its own: in this one kernels are for the interpreter."""
    environment = {**os.environ, "TRITON_INTERPRET": "0", "TRITON_CACHE_DIR": str(folder)}
    command = [sys.executable, str(Path(__file__).with_name("compiling.py")), gpu, *wanted]
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3000:]
    return [json.loads(line) for line in done.stdout.splitlines()]


def check(gpu: str, found: list[dict[str, Any]]) -> None:
    assert found
    for each in found:
        about = json.dumps(each)
        assert each["local_bytes"] <= LOCAL_BYTES[gpu], about
        assert each["registers"] <= REGISTERS[gpu], about
        assert each["spilled_bytes"] <= 16, about  # a stack of 8 bytes holds no value of a tile
        assert bool(each["matrix"]) == (each["kernel"] in MULTIPLY), about


@pytest.mark.parametrize("gpu", LOCAL_BYTES)
def test_decoding_fits_and_multiplies_on_tensor_cores(gpu: str, tmp_path: Path) -> None:
    """Experts and attention of a decode step of 158 tokens with FP8 weights, most of its time."""
    wanted = "--tokens", "158", "--layout", "tp8", "--variant", "triton", "--format", "fp8_block"
    found = compiled(gpu, *wanted, "--operator", "moe_ffn", "--operator", "mla_decode", folder=tmp_path)
    assert {each["kernel"] for each in found} >= {"gate_up_tile", "down_tile", "decode_tile"}
    check(gpu, found)


@pytest.mark.slow
@pytest.mark.parametrize("gpu", LOCAL_BYTES)
def test_everything_fits_and_multiplies_on_tensor_cores(gpu: str, tmp_path: Path) -> None:
    check(gpu, compiled(gpu, folder=tmp_path))
