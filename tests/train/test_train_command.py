"""``fullbore train demo``: what it leaves in the folder, and what it says to those it cannot use."""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

import fullbore
from fullbore import cli
from fullbore.model.load import load_model
from fullbore.train import command, demo
from fullbore.train.demo import Recipe, Trainer

STATE = command.STATE
FILES = {
    "config.json", "generation_config.json", "model-00001-of-000002.safetensors",
    "model-00002-of-000002.safetensors", "model.safetensors.index.json", "tokenizer.json",
    "tokenizer_config.json", "training.json",
}  # fmt: skip


@pytest.fixture
def small(tiny: Recipe, learnt: None, monkeypatch: pytest.MonkeyPatch) -> Iterator[Recipe]:
    """The command's recipe is the tests' own, and few questions are asked."""
    recipe = replace(tiny, steps=4, decay=1.0, stored_from=0.5)
    monkeypatch.setattr(demo, "Recipe", lambda seed: replace(recipe, seed=seed))
    monkeypatch.setattr(command, "HELD_OUT_QUESTIONS", 5)
    yield recipe
    torch.set_flush_denormal(False)  # the command is alone in its process, the tests are not


def interrupt_at(step: int, monkeypatch: pytest.MonkeyPatch, times: int = 1) -> None:
    """Ctrl-C in the middle of a step."""
    real = Trainer.train_step

    def train_step(trainer: Trainer) -> dict[str, float]:
        if trainer.step == step:
            for _ in range(times):
                os.kill(os.getpid(), signal.SIGINT)
        return real(trainer)

    monkeypatch.setattr(Trainer, "train_step", train_step)


def names(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()}


def test_it_leaves_a_checkpoint_and_its_figures(
    small: Recipe, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "new" / "model"
    assert cli.main(["train", "demo", "--out", str(out), "--steps", "2", "--seed", "5"]) == 0
    assert names(out) == FILES
    assert names(out.parent) == {"model"}
    facts = json.loads((out / "training.json").read_text("utf-8"))
    assert (facts["steps"], facts["recipe"]["seed"]) == (2, 5)
    assert sum(int(text.split(" of ")[1]) for text in facts["exact_by_kind"].values()) == 5
    printed = capsys.readouterr().out
    assert f"wrote {out}" in printed
    assert all(kind in printed for kind in facts["exact_by_kind"])
    assert load_model(out, "float32").config.hidden_size == small.hidden_size


def test_ctrl_c_keeps_what_was_done_and_the_same_command_goes_on(
    small: Recipe, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    straight, broken = tmp_path / "straight", tmp_path / "broken"
    assert cli.main(["train", "demo", "--out", str(straight)]) == 0
    with monkeypatch.context() as patch:
        interrupt_at(1, patch)
        assert cli.main(["train", "demo", "--out", str(broken)]) == 130
    assert "the same command goes on" in capsys.readouterr().err
    assert names(broken) == {STATE}
    assert cli.main(["train", "demo", "--out", str(broken)]) == 0
    assert f"{STATE} at step 2" in capsys.readouterr().out
    assert names(broken) == FILES
    for name in FILES - {"training.json"}:
        assert (broken / name).read_bytes() == (straight / name).read_bytes(), name
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_a_second_ctrl_c_breaks_off_at_once(
    small: Recipe, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    steps: list[int] = []
    real = Trainer.train_step
    monkeypatch.setattr(Trainer, "train_step", lambda trainer: (steps.append(trainer.step), real(trainer))[1])
    interrupt_at(0, monkeypatch, times=2)
    assert cli.main(["train", "demo", "--out", str(tmp_path / "model")]) == 130
    assert not steps
    assert names(tmp_path / "model") == set()


def test_an_interrupted_examination_is_taken_again(
    small: Recipe, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The training is done, its result is not lost, and nothing half written is left."""

    def interrupted(*arguments: Any) -> Any:
        raise KeyboardInterrupt

    out = tmp_path / "model"
    with monkeypatch.context() as patch:
        patch.setattr("fullbore.train.report.held_out_report", interrupted)
        assert cli.main(["train", "demo", "--out", str(out)]) == 130
    assert names(out) == {STATE}
    monkeypatch.setattr(Trainer, "train_step", interrupted)
    assert cli.main(["train", "demo", "--out", str(out)]) == 0
    assert names(out) == FILES


@pytest.mark.parametrize("content", [{"notes.txt": "mine"}, {"config.json": "{}", "model.safetensors": ""}])
def test_a_folder_with_something_in_it_is_left_alone(
    content: dict[str, str], small: Recipe, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for name, text in content.items():
        (tmp_path / name).write_text(text)
    assert cli.main(["train", "demo", "--out", str(tmp_path)]) == 2
    assert f"{tmp_path} is not empty" in capsys.readouterr().err
    assert {path.name: path.read_text() for path in tmp_path.iterdir()} == content


def test_an_empty_folder_and_one_by_a_link_will_do(small: Recipe, tmp_path: Path) -> None:
    (tmp_path / "real").mkdir()
    (tmp_path / "link").symlink_to("real")
    assert cli.main(["train", "demo", "--out", str(tmp_path / "link"), "--steps", "1"]) == 0
    assert (tmp_path / "link").is_symlink()
    assert names(tmp_path / "real") == FILES


def test_a_rest_of_a_killed_run_is_no_obstacle(small: Recipe, tmp_path: Path) -> None:
    """Killed while it saved for the first time."""
    (tmp_path / STATE).with_suffix(".part").write_bytes(b"half")
    assert cli.main(["train", "demo", "--out", str(tmp_path), "--steps", "1"]) == 0
    assert names(tmp_path) == FILES


def test_a_run_goes_on_only_with_its_own_flags(
    small: Recipe, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    with monkeypatch.context() as patch:
        interrupt_at(0, patch)
        assert cli.main(["train", "demo", "--out", str(tmp_path)]) == 130
    before = (tmp_path / STATE).read_bytes()
    for flags, word in ((["--seed", "2"], "seed"), (["--steps", "9"], "steps")):
        assert cli.main(["train", "demo", "--out", str(tmp_path), *flags]) == 2
        assert f"differ in {word})" in capsys.readouterr().err
    assert (tmp_path / STATE).read_bytes() == before
    assert names(tmp_path) == {STATE}


def test_a_folder_that_cannot_be_written_is_said_before_training(
    small: Recipe, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "file"
    file.write_text("mine")
    assert cli.main(["train", "demo", "--out", str(file)]) == 2
    assert f"{file} is a file" in capsys.readouterr().err
    assert cli.main(["train", "demo", "--out", str(file / "below")]) == 2
    assert f"{file / 'below'} cannot be written" in capsys.readouterr().err
    assert file.read_text() == "mine"

    def refuse(**arguments: Any) -> Any:  # the tests may run as root, whom no folder refuses
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr("tempfile.TemporaryFile", refuse)
    assert cli.main(["train", "demo", "--out", str(tmp_path / "locked")]) == 2
    assert "cannot be written (Permission denied)" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("flags", "named"),
    [
        (["demo"], "--out"),
        (["demo", "--out", "{}", "--steps", "0"], "--steps: '0'"),
        (["demo", "--out", "{}", "--steps", "many"], "--steps: 'many'"),
        (["demo", "--out", "{}", "--threads", "-1"], "--threads: '-1'"),
        (["demo", "--out", "{}", "--seed", "-1"], "--seed: '-1'"),
        (["demo", "--out", "{}", "--seed", str(2**63)], "--seed"),
        (["demo", "--out", "{}", "--step", "3"], "did you mean --steps"),
        (["deepseek-v3", "--out", "{}"], "'demo'"),
        (["--out", "{}"], "recipe"),
    ],
)
def test_flags_that_make_no_sense_are_named_and_nothing_is_made(
    flags: list[str], named: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "model"
    assert cli.main(["train", *(flag.format(out) for flag in flags)]) == 2
    printed = capsys.readouterr().err
    assert printed.startswith("fullbore: error: ")
    assert named in printed
    assert not out.exists()


def test_flags_can_be_variables(
    small: Recipe, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("FULLBORE_STEPS", "none")
    assert cli.main(["train", "demo", "--out", str(tmp_path / "model")]) == 2
    assert "FULLBORE_STEPS='none'" in capsys.readouterr().err
    monkeypatch.setenv("FULLBORE_STEPS", "1")
    monkeypatch.setenv("FULLBORE_OUT", str(tmp_path / "model"))
    assert cli.main(["train", "demo"]) == 0
    assert json.loads((tmp_path / "model" / "training.json").read_text("utf-8"))["steps"] == 1


@pytest.mark.slow
def test_the_real_recipe_runs_from_the_command_line(tmp_path: Path) -> None:
    """Three steps of it teach nothing, but its thousand questions are asked and its files are whole."""
    flags = ["train", "demo", "--out", str(tmp_path / "model"), "--steps", "3"]
    environment = {**os.environ, "PYTHONPATH": str(Path(fullbore.__file__).parents[1])}
    done = subprocess.run(
        [sys.executable, "-m", "fullbore", *flags], capture_output=True, text=True, env=environment
    )
    assert done.returncode == 0, done.stderr
    assert names(tmp_path / "model") == FILES
    facts = json.loads((tmp_path / "model" / "training.json").read_text("utf-8"))
    assert sum(int(text.split(" of ")[1]) for text in facts["exact_by_kind"].values()) == 1000
    inspected = subprocess.run(
        [sys.executable, "-m", "fullbore", "inspect", str(tmp_path / "model"), "--verify"],
        capture_output=True, text=True, env=environment,
    )  # fmt: skip
    assert inspected.returncode == 0, inspected.stdout + inspected.stderr
