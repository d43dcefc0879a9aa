"""``fullbore inspect accuracy``: figures of a comparison, what is read, and what is refused."""

import math
from pathlib import Path

import pytest
import torch

from fullbore.cli import main
from fullbore.model.compare import compare
from fullbore.model.make_checkpoint import config_fields, make_checkpoint
from fullbore.train import accuracy_command


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = tmp_path_factory.mktemp("tiny") / "model"
    make_checkpoint(made, config_fields("tiny", ["hidden_size=64", "vocab_size=512"], "fp8"))
    return made


def run(capsys: pytest.CaptureFixture[str], *argv: str) -> tuple[int, str, str]:
    code = main(["inspect", "accuracy", *argv])
    captured = capsys.readouterr()
    return code, captured.out, captured.err


def test_the_figures_are_those_of_their_definitions() -> None:
    first = torch.tensor([[2.0, 0.0], [0.0, 1.0], [9.0, 9.0]])
    second = torch.tensor([[0.0, 1.0], [0.0, 1.0], [9.0, 9.5]])
    found = compare([[0, 1, 1]], [first], [second])
    p, q = first[:2].double().softmax(-1), second[:2].double().softmax(-1)
    assert found.tokens == 2
    assert found.agreement == 0.5
    assert found.largest == 2.0
    assert found.divergence == pytest.approx(float((p * (p / q).log()).sum()) / 2, rel=1e-5)
    for figure, probabilities in zip(found.perplexity, (p, q), strict=True):
        assert figure == pytest.approx(math.exp(-float(probabilities[:, 1].log().sum()) / 2), rel=1e-5)


def test_a_model_agrees_with_itself(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, out, _ = run(capsys, str(folder), "--tokens", "40", "--dtype", "float32")
    assert code == 0
    assert "39 predictions, fp8_block (stored) and fp8_block" in out
    for line in ("token    100.00%", "divergence        0 nats", "difference  0\n"):
        assert line in out


def test_converted_weights_are_told_apart(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, out, _ = run(capsys, str(folder), "--tokens", "40", "--weights", "int4")
    assert code == 0
    assert out.startswith("weights as int4: ")
    assert "fp8_block (stored) and int4_g32" in out
    assert "difference  0\n" not in out


def test_a_text_is_read_in_pieces(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    text = tmp_path / "text"
    text.write_text("abc " * 40)
    monkeypatch.setattr(accuracy_command, "SEQUENCE", 16)
    code, out, _ = run(capsys, str(folder), "--text", str(text), "--tokens", "40")
    assert code == 0
    assert "37 predictions" in out  # pieces of 16, 16 and 8, whose last tokens predict nothing


@pytest.mark.parametrize(
    ("flags", "says"),
    [
        (["--questions", "3"], "of the demo model"),
        (["--weights", "int3"], "did you mean int"),
        (["--text", "/no/such/file"], "cannot be read"),
    ],
)
def test_what_cannot_be_is_refused(
    flags: list[str], says: str, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    code, _, error = run(capsys, str(folder), *flags)
    assert code == 2
    assert says in error


def test_the_demo_model_is_asked(capsys: pytest.CaptureFixture[str]) -> None:
    code, out, _ = run(capsys, "demo", "--weights", "int8", "--tokens", "60", "--questions", "2")
    assert code == 0
    assert "of 2" in out.splitlines()[-1]
