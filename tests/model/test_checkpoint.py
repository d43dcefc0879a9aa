"""Reading checkpoints: the right bytes, whatever way they are stored, and memory given back."""

import json
import shutil
import struct
from pathlib import Path

import pytest
import torch
from checkpoint_faults import (
    ATTENTION,
    EXPERT,
    FIRST,
    MTP,
    SINGLE,
    copy,
    edit_tensors,
    open_small,
    write_small,
)
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file
from torch import Tensor

from fullbore.model.checkpoint import INDEX


@pytest.fixture(scope="session")
def small(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_small(tmp_path_factory.mktemp("small"))


def stored(folder: Path) -> dict[str, Tensor]:
    """All tensors as the safetensors library reads them."""
    tensors: dict[str, Tensor] = {}
    for path in folder.glob("*.safetensors"):
        tensors |= load_file(path)
    return tensors


def same_bytes(one: Tensor, other: Tensor) -> bool:
    return one.dtype == other.dtype and torch.equal(
        one.contiguous().view(torch.uint8), other.contiguous().view(torch.uint8)
    )


def assert_reads_back(folder: Path) -> None:
    checkpoint, expected = open_small(folder), stored(folder)
    for name, spec in checkpoint.specs.items():
        if len(spec.shape) == 1:
            assert same_bytes(checkpoint.tensor(name), expected.pop(name))
            continue
        weight = checkpoint.weight(name)
        assert same_bytes(weight.data, expected.pop(name))
        assert (weight.scale is None) == (spec.scale_name not in expected)
        if weight.scale is not None:
            assert same_bytes(weight.scale, expected.pop(spec.scale_name))
    assert not expected


@given(st.integers(10_000, 1_500_000), st.sampled_from(["fp8", "bf16"]), st.integers(0, 99))
@settings(max_examples=12, deadline=None)
def test_every_tensor_reads_back_from_any_shards(
    tmp_path_factory: pytest.TempPathFactory, shard_bytes: int, format: str, seed: int
) -> None:
    folder = tmp_path_factory.mktemp("c")
    write_small(folder, shard_bytes=shard_bytes, seed=seed, format=format)
    assert_reads_back(folder)


@pytest.mark.parametrize("changes", [("q_lora_rank=null",), ("tie_word_embeddings=true",), ("n_group=1",)])
def test_variants_read_back(tmp_path: Path, changes: tuple[str, ...]) -> None:
    assert_reads_back(write_small(tmp_path, *changes))


def test_total_bytes_are_those_of_the_model(small: Path) -> None:
    checkpoint = open_small(small)
    copies = [f"{MTP}.embed_tokens.weight", f"{MTP}.shared_head.head.weight"]
    tensors = stored(small)
    assert checkpoint.total_bytes == sum(t.nbytes for name, t in tensors.items() if name not in copies)
    assert all(checkpoint.specs[name].optional for name in copies)


# What is tolerated: nothing is missing for the model, and nothing is ambiguous.


def test_a_model_saved_without_its_mtp_layer(small: Path, tmp_path: Path) -> None:
    copy(small, tmp_path)
    edit_tensors(tmp_path, lambda t: [t.pop(name) for name in list(t) if name.startswith(MTP)])
    assert open_small(tmp_path).config.num_nextn_predict_layers == 0


def test_copies_and_computed_tensors_may_be_there_or_not(small: Path, tmp_path: Path) -> None:
    copy(small, tmp_path)

    def change(tensors: dict[str, Tensor]) -> None:
        del tensors[f"{MTP}.embed_tokens.weight"], tensors[f"{MTP}.shared_head.head.weight"]
        tensors["model.layers.0.self_attn.rotary_emb.inv_freq"] = torch.ones(8)

    edit_tensors(tmp_path, change)
    assert open_small(tmp_path).config.num_nextn_predict_layers == 1


def test_a_tied_head_may_be_written(tmp_path: Path) -> None:
    write_small(tmp_path, "tie_word_embeddings=true")
    edit_tensors(tmp_path, lambda t: t.update({"lm_head.weight": t["model.embed_tokens.weight"].clone()}))
    assert open_small(tmp_path).specs["lm_head.weight"].optional


def test_some_weights_of_an_fp8_model_may_be_bf16_or_fp32(small: Path, tmp_path: Path) -> None:
    copy(small, tmp_path)

    def change(tensors: dict[str, Tensor]) -> None:
        for name, dtype in ((EXPERT, torch.bfloat16), (f"{ATTENTION}.o_proj.weight", torch.float32)):
            tensors[name] = tensors[name].float().to(dtype)
            del tensors[name + "_scale_inv"]

    edit_tensors(tmp_path, change)
    checkpoint = open_small(tmp_path)
    assert checkpoint.weight(EXPERT).format == checkpoint.format(EXPERT) == "bf16"
    assert checkpoint.weight(f"{ATTENTION}.o_proj.weight").format == "fp32"


def test_unaligned_data_is_read(small: Path, tmp_path: Path) -> None:
    """The format does not promise that data begins at a multiple of its item size."""
    copy(small, tmp_path)
    raw = (tmp_path / SINGLE).read_bytes()
    (length,) = struct.unpack("<Q", raw[:8])
    header = raw[8 : 8 + length] + b" "
    (tmp_path / SINGLE).write_bytes(struct.pack("<Q", len(header)) + header + raw[8 + length :])
    assert_reads_back(tmp_path)


def test_links_of_the_hub_cache_are_followed(small: Path, tmp_path: Path) -> None:
    snapshot, blobs = tmp_path / "models--a--b" / "snapshots" / "c0ffee", tmp_path / "models--a--b" / "blobs"
    snapshot.mkdir(parents=True)
    blobs.mkdir()
    for number, path in enumerate(sorted(small.iterdir())):
        shutil.copy(path, blobs / str(number))
        (snapshot / path.name).symlink_to(Path("..", "..", "blobs", str(number)))
    assert_reads_back(snapshot)


def test_a_weight_and_its_factors_may_be_in_different_files(tmp_path: Path) -> None:
    write_small(tmp_path, shard_bytes=4)  # every tensor alone
    where = json.loads((tmp_path / INDEX).read_text())["weight_map"]
    assert where[EXPERT] != where[EXPERT + "_scale_inv"]
    assert_reads_back(tmp_path)


# Memory.


def file_pages_kb() -> int:
    """Memory of this process that pages of mapped files take."""
    status = Path("/proc/self/status").read_text()
    return int(status.split("RssFile:")[1].split()[0])


def test_reading_with_release_holds_one_tensor_at_a_time(tmp_path: Path) -> None:
    write_small(
        tmp_path, "moe_intermediate_size=512", "n_routed_experts=128", "hidden_size=512", shard_bytes=40 << 20
    )
    checkpoint = open_small(tmp_path)
    largest = max(checkpoint.stored_bytes(name) for name in checkpoint.specs) // 1024
    assert checkpoint.total_bytes > 100 << 20

    def read(name: str) -> int:
        return int(checkpoint.tensor(name).view(torch.uint8).sum(dtype=torch.int64))

    first = read(FIRST)
    checkpoint.release(FIRST)
    before = most = file_pages_kb()
    for name in checkpoint.specs:
        read(name)
        most = max(most, file_pages_kb())
        checkpoint.release(name)
    assert most - before < largest + 2 * 1024
    held = checkpoint.tensor(FIRST)
    checkpoint.release(FIRST)
    assert int(held.view(torch.uint8).sum(dtype=torch.int64)) == first  # a view outlives its release
