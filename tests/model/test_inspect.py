"""``fullbore inspect``: the figures, and that damage is found by name."""

import hashlib
import json
import shutil
from pathlib import Path

import pytest
import torch
from checkpoint_faults import EXPERT, edit_json, edit_tensors, write_small
from safetensors.torch import load_file

from fullbore.cli import main

SINGLE = "model.safetensors"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return write_small(tmp_path / "model")


def inspect(folder: Path, capsys: pytest.CaptureFixture[str], *flags: str) -> tuple[int, str, str]:
    code = main(["inspect", str(folder), *flags])
    captured = capsys.readouterr()
    return code, captured.out, captured.err


def flip(path: Path, place: int) -> None:
    raw = bytearray(path.read_bytes())
    raw[place] ^= 1
    path.write_bytes(raw)


def test_the_figures(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, out, _ = inspect(folder, capsys, "--json")
    shown = json.loads(out)
    tensors = load_file(folder / SINGLE)
    own = {name: t for name, t in tensors.items() if not name.endswith("_scale_inv")}
    main_model = {name: t for name, t in own.items() if not name.startswith("model.layers.2.")}
    experts = sum(t.numel() for name, t in main_model.items() if ".mlp.experts." in name)
    total = sum(t.numel() for t in main_model.values())
    assert code == 0
    assert shown["parameters"] == total
    assert shown["parameters_active_per_token"] == total - experts // 2  # 2 of 4 experts
    assert shown["tensor_bytes"] == sum(t.nbytes for t in tensors.values())
    fp8 = sum(t.nbytes for name, t in tensors.items() if name.endswith("_scale_inv") or t.itemsize == 1)
    assert shown["tensor_bytes_by_format"]["fp8_block"] == fp8
    fp8 = 2 * (32 + 4 + 16 * 2)
    assert shown["kv_bytes_per_token"] == {"fp8": fp8, "bf16": 2 * (32 + 16) * 2, "fp32": 2 * (32 + 16) * 4}
    assert (shown["layers"], shown["layers_dense"], shown["mtp_layers"]) == (2, 1, 1)
    assert (shown["tokenizer_ids"], shown["vocab_size"], shown["context_tokens"]) == (300, 300, 4096)


def test_what_weights_would_be_converted_to(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    stored = json.loads(inspect(folder, capsys, "--json")[1])["converted"]
    assert stored["weights"] == "stored"
    assert "int4_g32" not in stored["matrix_bytes_by_format"]
    converted = json.loads(inspect(folder, capsys, "--json", "--weights", "int4")[1])["converted"]
    assert converted["bytes"] < stored["bytes"]
    assert {"int4_g32", "int8", "fp8_block", "bf16"} == set(converted["matrix_bytes_by_format"])
    assert "as int4     " in inspect(folder, capsys, "--weights", "int4")[1]
    code, _, error = inspect(folder, capsys, "--weights", "int")
    assert (code, "did you mean int" in error) == (2, True)


def test_the_figures_for_people(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, out, _ = inspect(folder, capsys)
    assert code == 0
    for words in (
        "1 MTP layer",
        "2 (1 dense, 1 with experts)",
        "192 bytes per token in bf16, 136 in fp8",
        "4,096 tokens",
    ):
        assert words in out


def test_verify_compares_every_file_with_its_sum(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, out, _ = inspect(folder, capsys, "--verify")
    digest = hashlib.sha256((folder / SINGLE).read_bytes()).hexdigest()
    assert code == 0
    assert f"{digest}  {SINGLE}  (as in SHA256SUMS)" in out
    flip(folder / SINGLE, -1)
    code, _, err = inspect(folder, capsys, "--verify")
    assert code == 1
    assert SINGLE in err
    assert digest in err
    assert inspect(folder, capsys)[0] == 0  # without --verify nothing is read


def test_verify_without_a_record_says_so(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (folder / "SHA256SUMS").unlink()
    code, out, _ = inspect(folder, capsys, "--verify", "--json")
    (file,) = json.loads(out)["files"]
    assert (code, file["recorded"]) == (0, "")
    assert file["sha256"] == hashlib.sha256((folder / SINGLE).read_bytes()).hexdigest()


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
@pytest.mark.parametrize("name", ["model.norm.weight", "lm_head.weight", EXPERT, EXPERT + "_scale_inv"])
def test_verify_finds_values_that_are_no_numbers(
    folder: Path, capsys: pytest.CaptureFixture[str], name: str, value: float
) -> None:
    (folder / "SHA256SUMS").unlink()

    def change(tensors: dict[str, torch.Tensor]) -> None:
        flat = tensors[name].view(-1)
        if name == EXPERT:
            flat.view(torch.uint8)[7] = 0x7F if value != value else 0xFF  # the two NaN of e4m3
        else:
            flat[-1] = value

    edit_tensors(folder, change)
    code, _, err = inspect(folder, capsys, "--verify")
    assert code == 1
    assert name in err
    assert "[0, 7]" in err or name != EXPERT


def test_a_file_of_the_hub_cache_is_named_after_its_sum(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    repository = tmp_path / "hub" / "models--org--name"
    snapshot = repository / "snapshots" / "abc"
    (repository / "blobs").mkdir(parents=True)
    snapshot.mkdir(parents=True)
    (repository / "refs").mkdir()
    (repository / "refs" / "main").write_text("abc")
    (folder / "SHA256SUMS").unlink()
    for path in folder.iterdir():
        blob = repository / "blobs" / hashlib.sha256(path.read_bytes()).hexdigest()
        shutil.move(path, blob)
        (snapshot / path.name).symlink_to(Path("..", "..", "blobs", blob.name))
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.chdir(tmp_path)
    code, out, _ = inspect(Path("org/name"), capsys, "--verify")
    assert code == 0
    assert "as in the hub's cache" in out
    flip((snapshot / SINGLE).resolve(), -1)
    code, _, err = inspect(Path("org/name"), capsys, "--verify")
    assert code == 1
    assert "the hub's cache says" in err


def test_the_notes_of_a_download_are_read(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (folder / "SHA256SUMS").unlink()
    notes = folder / ".cache" / "huggingface" / "download" / f"{SINGLE}.metadata"
    notes.parent.mkdir(parents=True)
    notes.write_text(f"{'c' * 40}\n{'d' * 64}\n1700000000.0\n")
    code, _, err = inspect(folder, capsys, "--verify")
    assert code == 1
    assert "d" * 64 in err


@pytest.mark.parametrize(
    ("line", "says"),
    [
        ("hello", "line 1 is 'hello'"),
        ("0" * 64 + "  ghost.safetensors", "ghost.safetensors, which is not there"),
        ("0" * 64 + "  ../x", "path in it"),
        ("0" * 64 + " *config.json", "config.json is damaged"),
    ],
)
def test_a_wrong_manifest(folder: Path, capsys: pytest.CaptureFixture[str], line: str, says: str) -> None:
    (folder / "SHA256SUMS").write_text(line + "\n")
    code, _, err = inspect(folder, capsys, "--verify")
    assert code == 1
    assert says in " ".join(err.split())


def test_a_tokenizer_of_another_model(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    edit_json(folder / "tokenizer.json", lambda whole: whole["model"]["vocab"].update(zzz=300))
    code, _, err = inspect(folder, capsys)
    assert code == 1
    assert "token id 300" in err
    assert "300 rows" in err
    (folder / "tokenizer.json").write_text("{}")
    assert inspect(folder, capsys)[0] == 1
    (folder / "tokenizer.json").unlink()
    assert "none" in inspect(folder, capsys)[1]
