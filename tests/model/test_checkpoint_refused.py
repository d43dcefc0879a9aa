"""Checkpoints that are refused: every fault is named before anything is computed with it."""

import shutil
import struct
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from checkpoint_faults import (
    ATTENTION,
    EXPERT,
    MTP,
    SINGLE,
    copy,
    edit_header,
    edit_index,
    edit_json,
    edit_tensors,
    open_small,
    write_small,
)
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import Tensor

from fullbore.errors import CheckpointError
from fullbore.model.checkpoint import INDEX
from fullbore.model.load import load_model

FIRST_SHARD = "model-00001-of-000002.safetensors"
SECOND_SHARD = "model-00002-of-000002.safetensors"


@pytest.fixture(scope="session")
def small(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_small(tmp_path_factory.mktemp("small"))


@pytest.fixture(scope="session")
def sharded(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = write_small(tmp_path_factory.mktemp("sharded"), shard_bytes=520_000)
    assert (folder / SECOND_SHARD).exists()
    return folder


# Faults in a single-file checkpoint: what is done to its tensors, and what the message must say.


def drop(name: str) -> Callable[[dict[str, Tensor]], None]:
    return lambda tensors: tensors.__delitem__(name)


def put(name: str, make: Callable[[Tensor], Tensor], source: str = "") -> Callable[[dict[str, Tensor]], None]:
    return lambda tensors: tensors.update({name: make(tensors[source or name])})


Q_A = f"{ATTENTION}.q_a_proj.weight"
NORM = "model.norm.weight"
BIAS = "model.layers.1.mlp.gate.e_score_correction_bias"
TENSOR_FAULTS: dict[str, tuple[Callable[[dict[str, Tensor]], None], list[str]]] = {
    "missing": (drop(EXPERT), [EXPERT, "missing"]),
    "missing norm": (drop("model.norm.weight"), ["model.norm.weight", "missing"]),
    "missing head": (drop("lm_head.weight"), ["lm_head.weight", "missing"]),
    "half an MTP layer": (drop(f"{MTP}.enorm.weight"), [f"{MTP}.enorm.weight", "missing"]),
    "extra": (put("model.extra.weight", torch.clone, Q_A), ["model.extra.weight", "not part of the model"]),
    "extra scale": (
        put(f"{ATTENTION}.k_scale", lambda t: torch.ones(1), Q_A),
        [f"{ATTENTION}.k_scale", "not part"],
    ),
    "extra layer": (
        put("model.layers.7.input_layernorm.weight", torch.clone, "model.norm.weight"),
        ["model.layers.7.input_layernorm.weight", "num_hidden_layers is 2"],
    ),
    "transposed": (put(Q_A, lambda t: t.T.contiguous()), [Q_A, "[160, 40]", "[40, 160]"]),
    "flattened": (put(Q_A, lambda t: t.flatten()), [Q_A, "[6400]", "[40, 160]"]),
    "fp16": (put("model.norm.weight", lambda t: t.half()), ["model.norm.weight", "F16", "BF16 or F32"]),
    "int8": (put(Q_A, lambda t: t.view(torch.int8)), [Q_A, "I8", "F8_E4M3"]),
    "e5m2": (put(Q_A, lambda t: t.view(torch.float8_e5m2)), [Q_A, "F8_E5M2"]),
    "fp8 router": (
        put("model.layers.1.mlp.gate.weight", lambda t: t.to(torch.float8_e4m3fn)),
        ["model.layers.1.mlp.gate.weight", "F8_E4M3", "BF16 or F32"],
    ),
    "no scale": (drop(Q_A + "_scale_inv"), [Q_A, "_scale_inv are missing"]),
    "scale without fp8": (put(Q_A, lambda t: t.bfloat16()), [Q_A, "BF16", "_scale_inv"]),
    "scale alone": (drop(Q_A), [Q_A, "missing"]),
    "scale grid": (put(Q_A + "_scale_inv", lambda t: t.T.contiguous()), [Q_A, "[2, 1]", "F32 [1, 2]"]),
    "scale dtype": (put(Q_A + "_scale_inv", lambda t: t.bfloat16()), [Q_A + "_scale_inv", "BF16", "F32"]),
}


@pytest.mark.parametrize("fault", TENSOR_FAULTS)
def test_a_wrong_tensor_is_named(small: Path, tmp_path: Path, fault: str) -> None:
    change, says = TENSOR_FAULTS[fault]
    copy(small, tmp_path)
    edit_tensors(tmp_path, change)
    with pytest.raises(CheckpointError) as caught:
        open_small(tmp_path)
    for words in [*says, str(tmp_path)]:
        assert words in str(caught.value)


def test_fp8_tensors_need_the_config_to_say_so(small: Path, tmp_path: Path) -> None:
    copy(small, tmp_path)
    edit_json(tmp_path / "config.json", lambda fields: fields.pop("quantization_config"))
    with pytest.raises(CheckpointError, match=r"has the dtype F8_E4M3.*no quantization_config"):
        open_small(tmp_path)


def test_mtp_tensors_need_the_config_to_say_so(small: Path, tmp_path: Path) -> None:
    copy(small, tmp_path)
    edit_json(tmp_path / "config.json", lambda fields: fields.update(num_nextn_predict_layers=0))
    with pytest.raises(CheckpointError, match=rf"{MTP}\..*num_nextn_predict_layers 0"):
        open_small(tmp_path)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), 0.0, -1.0])
def test_a_factor_that_is_no_positive_number_is_named_when_read(
    small: Path, tmp_path: Path, value: float
) -> None:
    copy(small, tmp_path)

    def change(tensors: dict[str, Tensor]) -> None:
        tensors[Q_A + "_scale_inv"][0, 1] = value

    edit_tensors(tmp_path, change)
    checkpoint = open_small(tmp_path)
    checkpoint.weight(EXPERT)
    for _ in range(2):
        with pytest.raises(CheckpointError, match=rf"{SINGLE}: tensor {Q_A}_scale_inv .*\(0, 1\)"):
            checkpoint.weight(Q_A)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
@pytest.mark.parametrize("name", [BIAS, NORM])
def test_a_norm_or_bias_that_is_no_number_is_named_when_read(
    small: Path, tmp_path: Path, name: str, value: float
) -> None:
    """With a bias of NaN or infinity every token chooses that expert, and answers look like any others."""
    copy(small, tmp_path)

    def change(tensors: dict[str, Tensor]) -> None:
        tensors[name][2] = value

    edit_tensors(tmp_path, change)
    with pytest.raises(CheckpointError, match=rf"{SINGLE}: tensor {name} holds {value} at 2"):
        load_model(tmp_path, "float32")


# Faults in the file's header.

HEADER_FAULTS: dict[str, tuple[Callable[[dict], object], list[str]]] = {
    "overlap": (
        lambda h: h[NORM].update(data_offsets=h["model.layers.0.input_layernorm.weight"]["data_offsets"]),
        [NORM, "overlaps"],
    ),
    "gap": (lambda h: h.pop(EXPERT) and None, ["leaves a gap after"]),
    "beyond the end": (
        lambda h: h[EXPERT].update(data_offsets=[at + 10**9 for at in h[EXPERT]["data_offsets"]]),
        [EXPERT, "truncated"],
    ),
    "backwards": (lambda h: h[EXPERT]["data_offsets"].reverse(), [EXPERT, "offsets"]),
    "negative": (lambda h: h[EXPERT].update(data_offsets=[-1, 5]), [EXPERT, "expected dtype"]),
    "size": (lambda h: h[EXPERT].update(shape=[48, 161]), [EXPERT, "needs 7728 bytes"]),
    "huge": (lambda h: h[EXPERT].update(shape=[1 << 62, 1 << 62]), [EXPERT, "needs"]),
    "shape": (lambda h: h[EXPERT].update(shape="48"), [EXPERT, "expected dtype"]),
    "dtype": (lambda h: h[EXPERT].update(dtype="F4"), [EXPERT, "unknown dtype 'F4'"]),
    "no dtype": (lambda h: h[EXPERT].pop("dtype") and None, [EXPERT, "expected dtype"]),
    "line": (lambda h: h.update({EXPERT: 7}), [EXPERT, "expected dtype"]),
    "list": (lambda h: [1], ["no JSON object"]),
}  # fmt: skip


@pytest.mark.parametrize("fault", HEADER_FAULTS)
def test_a_wrong_header_is_named(small: Path, tmp_path: Path, fault: str) -> None:
    change, says = HEADER_FAULTS[fault]
    copy(small, tmp_path)
    edit_header(
        tmp_path / SINGLE, lambda header: result if isinstance(result := change(header), list) else None
    )
    with pytest.raises(CheckpointError) as caught:
        open_small(tmp_path)
    for words in [*says, SINGLE]:
        assert words in str(caught.value)


@pytest.mark.parametrize(
    ("raw", "says"),
    [
        (b"", "truncated"),
        (b"\x01\x02", "truncated"),
        (struct.pack("<Q", 2**63) + b"{}", "truncated"),
        (struct.pack("<Q", 8) + b"{}", "truncated"),
        (struct.pack("<Q", 2) + b"{]", "not valid JSON"),
        (struct.pack("<Q", 4) + b"\xff\xfe\xfd\xfc", "not valid JSON"),
        (struct.pack("<Q", 60_000) + b"[" * 60_000, "not valid JSON"),
        (struct.pack("<Q", 15) + b'{"a":1,  "a":2}', "occurs twice"),
        (struct.pack("<Q", 2) + b"{}junk", "belong to nothing"),
        (b"PK\x03\x04 a zip file, as torch.save writes", "truncated"),
    ],
)
def test_a_file_that_is_no_safetensors(small: Path, tmp_path: Path, raw: bytes, says: str) -> None:
    copy(small, tmp_path)
    (tmp_path / SINGLE).write_bytes(raw)
    with pytest.raises(CheckpointError, match=rf"{SINGLE}.*{says}"):
        open_small(tmp_path)


def test_a_header_over_the_limit(small: Path, tmp_path: Path) -> None:
    copy(small, tmp_path)
    with (tmp_path / SINGLE).open("wb") as file:  # sparse: takes no room on the disk
        file.write(struct.pack("<Q", 100_000_001))
        file.truncate(200_000_000)
    with pytest.raises(CheckpointError, match="exceeds the 100000000"):
        open_small(tmp_path)


@given(st.data())
@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_a_truncated_or_damaged_file_never_opens_quietly(
    small: Path, tmp_path: Path, data: st.DataObject
) -> None:
    """Cut anywhere, it is refused; with any byte of the header changed, it is refused or reads the same."""
    copy(small, tmp_path)
    raw = (small / SINGLE).read_bytes()
    if data.draw(st.booleans()):
        (tmp_path / SINGLE).write_bytes(raw[: data.draw(st.integers(0, len(raw) - 1))])
        with pytest.raises(CheckpointError):
            open_small(tmp_path)
        return
    place = data.draw(st.integers(0, 8 + struct.unpack("<Q", raw[:8])[0] - 1))
    damaged = raw[:place] + bytes([data.draw(st.integers(0, 255))]) + raw[place + 1 :]
    (tmp_path / SINGLE).write_bytes(damaged)
    try:
        checkpoint = open_small(tmp_path)
    except CheckpointError as error:
        says = str(error)
    else:
        read = {name: checkpoint.tensor(name).shape for name in checkpoint.specs}
        assert read == {name: torch.Size(spec.shape) for name, spec in open_small(small).specs.items()}
        return
    assert str(tmp_path) in says


# Faults in the index and the folder.


def name_file(tensor: str, file: str) -> Callable[[Path], None]:
    return lambda folder: edit_index(folder, lambda where: where.update({tensor: file}))


def forget(tensor: str) -> Callable[[Path], None]:
    return lambda folder: edit_index(folder, lambda where: where.pop(tensor))


def link_outside(folder: Path) -> None:
    outside = folder.parent / "outside.safetensors"
    shutil.move(folder / SECOND_SHARD, outside)
    (folder / SECOND_SHARD).symlink_to(outside)


def link_to_itself(folder: Path) -> None:
    (folder / SECOND_SHARD).unlink()
    (folder / SECOND_SHARD).symlink_to(SECOND_SHARD)


def two_copies(folder: Path) -> None:
    """Read in the order of their names, the later file is the one that does not agree with the index."""
    shutil.copy(folder / SECOND_SHARD, folder / "other.safetensors")
    edit_index(folder, lambda where: where.update({"x": "other.safetensors"}))


def only_pickled(folder: Path) -> None:
    for path in [*folder.glob("*.safetensors"), folder / INDEX]:
        path.unlink()
    (folder / "pytorch_model-00001-of-00002.bin").write_bytes(b"cos\nsystem\n(S'touch ran'\ntR.")


FOLDER_FAULTS: dict[str, tuple[Callable[[Path], object], list[str]]] = {
    "missing shard": (lambda f: (f / SECOND_SHARD).unlink(), [SECOND_SHARD, "not there"]),
    "no index": (lambda f: (f / INDEX).unlink(), ["2 safetensors files", INDEX]),
    "empty index": (lambda f: (f / INDEX).write_text("{}"), [INDEX, "weight_map"]),
    "index no JSON": (lambda f: (f / INDEX).write_text("{"), [INDEX, "not valid JSON"]),
    "file no name": (lambda f: edit_index(f, lambda w: w.update(x=7)), [INDEX, "7", "file of x"]),
    "parent": (name_file(EXPERT, "../a.safetensors"), ["../a.safetensors", "path in it"]),
    "absolute": (name_file(EXPERT, "/etc/a.safetensors"), ["/etc/a.safetensors", "path in it"]),
    "pickle in index": (name_file(EXPERT, "model.bin"), [EXPERT, "model.bin", "only safetensors"]),
    "zero byte": (name_file(EXPERT, "a\0b.safetensors"), ["a\\x00b.safetensors", "cannot be opened"]),
    "no UTF-8": (name_file(EXPERT, "a\ud800.safetensors"), [INDEX, "not valid JSON", "\\ud800"]),
    "long": (name_file(EXPERT, "a" * 300 + ".safetensors"), ["aaaa", "cannot be opened"]),
    "link to itself": (link_to_itself, [SECOND_SHARD]),
    "link": (link_outside, [SECOND_SHARD, "outside"]),
    "wrong file": (name_file("lm_head.weight", SECOND_SHARD), ["lm_head.weight", FIRST_SHARD]),
    "unlisted": (forget("lm_head.weight"), ["lm_head.weight", "nowhere"]),
    "listed, not there": (name_file("model.ghost.weight", FIRST_SHARD), ["model.ghost.weight", "does not"]),
    "two files": (two_copies, ["in two files", SECOND_SHARD]),
    "pickled": (only_pickled, ["pytorch_model-00001-of-00002.bin", "never read", "safetensors"]),
}


@pytest.mark.parametrize("fault", FOLDER_FAULTS)
def test_a_wrong_folder_is_named(sharded: Path, tmp_path: Path, fault: str) -> None:
    change, says = FOLDER_FAULTS[fault]
    folder = copy(sharded, tmp_path / "model")
    change(folder)
    with pytest.raises(CheckpointError) as caught:
        open_small(folder)
    for words in says:
        assert words in str(caught.value)
    assert not (tmp_path / "ran").exists()


def test_no_weights_at_all(sharded: Path, tmp_path: Path) -> None:
    shutil.copy(sharded / "config.json", tmp_path)
    with pytest.raises(CheckpointError, match="no weights"):
        open_small(tmp_path)
