"""``fullbore tune`` and ``fullbore inspect why`` as a person uses them, on a tiny model."""

import os
import re
import shutil
from collections.abc import Callable
from functools import partial
from pathlib import Path

import msgspec
import pytest
from toy_kernels import CLOCK, PROBES, Quick, Raises, Toy, Wrong, registry

from fullbore.cli import main
from fullbore.kernels.catalogue import CATALOGUE
from fullbore.model.make_checkpoint import config_fields, make_checkpoint
from fullbore.ops.registry import Registry
from fullbore.ops.setting import Setting
from fullbore.ops.times import Timing, Verdict
from fullbore.tune import session
from fullbore.tune.points import Mode
from fullbore.tune.timing import ClockTimer, Effort

SMALL = ["hidden_size=64", "vocab_size=512", "num_hidden_layers=2"]
Run = Callable[..., tuple[int, str, str]]
# The demo of this test: linears by toys, all else by torch.
OTHERS = [entry for entry in CATALOGUE.entries if entry.operator != "linear" and entry.name == "torch"]
KERNELS = Registry([*registry(Toy, Wrong, Quick, Raises).entries, *OTHERS])


def by_our_clock(run: Callable[..., object]) -> Callable[..., object]:
    """As fast as any other, so that no real clock decides."""

    def timed(self: object, packed: object, *inputs: object) -> object:
        CLOCK.seconds += 50e-6
        return run(self, packed, *inputs)

    return timed


def by_our_rules(patch: pytest.MonkeyPatch, cache: Path) -> None:
    """Toy kernels, their clock, few token counts, and a cache of its own."""
    patch.setenv("XDG_CACHE_HOME", str(cache))
    patch.setenv("COLUMNS", "250")
    patch.setattr(session, "QUICK", Mode("quick", (1, 8, 64), (), Effort(0.0, 2, 2), 1.0))
    patch.setattr(session, "probes", lambda: PROBES)
    patch.setattr(session, "CATALOGUE", KERNELS)
    patch.setattr(os, "getloadavg", lambda: (0.1, 0.1, 0.1))
    patch.setattr(session, "Bench", partial(session.Bench, timer=ClockTimer(CLOCK)))
    for entry in OTHERS:
        kernel = entry.load()
        patch.setattr(kernel, "run", by_our_clock(kernel.run))


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("tiny") / "model"
    make_checkpoint(folder, config_fields("tiny", SMALL, "fp8"))
    return folder


@pytest.fixture(scope="module")
def measured(model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A cache where all was measured, to copy from."""
    cache = tmp_path_factory.mktemp("measured")
    with pytest.MonkeyPatch.context() as patch:
        by_our_rules(patch, cache)
        assert main(["tune", str(model), "--dtype", "float32", "--quiet", "--concurrency", "1"]) == 0
    return cache


@pytest.fixture
def fresh(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Run:
    """The command where nothing was measured yet."""
    by_our_rules(monkeypatch, tmp_path / "cache")

    def command(*argv: str) -> tuple[int, str, str]:
        code = main([str(model) if word == "MODEL" else word for word in argv])
        captured = capsys.readouterr()
        return code, captured.out, captured.err

    return command


@pytest.fixture
def run(fresh: Run, measured: Path, tmp_path: Path) -> Run:
    """The command where all was measured."""
    shutil.copytree(measured, tmp_path / "cache")
    return fresh


def tune(run: Run, *flags: str) -> str:
    code, out, err = run("tune", "MODEL", "--dtype", "float32", *flags)
    assert code == 0, err
    return out


def table() -> Path:
    return Setting.of("dialog").store.path


def test_the_table_shows_winners_times_and_who_was_refused_and_why(run: Run) -> None:
    out = tune(run, "--concurrency", "1")
    rows = [line for line in out.splitlines() if line.startswith("linear")]
    assert rows
    for row in rows:
        assert "steady" in row
        assert "20 us" in row
        assert "650 us" in row
        assert "wrong" in row
        assert re.search(r"quick \([45]\.\d\dx the winner's time\)", row)
    assert "(refused)" in out  # a wide table breaks the line before it
    for words in (
        "reads 10.0 GB/s", "100 GFLOP/s in float32", "dialog with 1 in flight", "computing in float32",
        "kernel wrong refused: its error is 1.0e-02, 2.0e-05 is allowed (case extreme_scales",
        "kernel raises refused: RuntimeError: illegal instruction", "kernel absent cannot be imported",
        "all operators in a step",
    ):  # fmt: skip
        assert words in out, words


def test_the_scenario_decides(run: Run) -> None:
    few, many = (tune(run, "--concurrency", count) for count in ("1", "64"))
    for shown, loser in ((few, "quick ("), (many, "steady (")):
        rows = [line for line in shown.splitlines() if line.startswith("linear")]
        assert all(loser in row for row in rows)
    by_tokens = tune(run, "--concurrency", "1", "--by-tokens")
    assert "steady to 8 tokens, quick beyond" in by_tokens


def test_a_second_run_measures_nothing(run: Run) -> None:
    tune(run)
    before = table().read_bytes()
    tune(run, "--scenario", "dialog")
    assert table().read_bytes() == before
    assert run("tune", "MODEL", "--dtype", "float32", "--quiet") == (0, "", "")


def test_why_tells_winner_losers_floor_and_source(run: Run) -> None:
    tune(run, "--concurrency", "1")
    why = "inspect", "why", "linear", "--model", "MODEL", "--dtype", "float32", "--concurrency", "1"
    code, out, _ = run(*why, "--tokens", "8")
    assert code == 0
    for words in (
        "kernel steady: fastest of 2 measured", "8 tokens:", "90 us (measured 2x: 90 .. 90)", "chosen",
        "108 us (measured 2x", "x the winner's time", "refused: its error is 1.0e-02",
        "cannot be imported", "us by the roofline", "% of ceiling",
    ):  # fmt: skip
        assert words in out, words
    assert "(interpolated)" in run(*why, "--tokens", "16")[1]
    assert "?5" in run(*why, "--tokens", "512")[1]
    assert "(assumed)" in run(*why, "--tokens", "512")[1]


def test_why_before_anything_was_measured(fresh: Run) -> None:
    code, out, _ = fresh("inspect", "why", "moe_ffn", "--model", "MODEL", "--dtype", "float32")
    assert code == 0
    assert "torch: the only candidate" in out
    assert "no time" in out
    assert "run: fullbore tune MODEL" in out


def test_a_model_called_why_is_a_folder(
    run: Run, model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    shutil.copytree(model, "why")
    code, out, _ = run("inspect", "./why")
    assert code == 0
    assert "parameters" in out
    code, _, err = run("inspect", "why")
    assert code == 2
    assert "OPERATOR" in err
    code, _, err = run("inspect", "why", "liner")
    assert code == 2
    assert "did you mean linear?" in err
    assert "fullbore inspect ./why" in err


def test_a_table_goes_to_a_twin_and_back(run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    exported = str(tmp_path / "times.jsonl")
    tune(run, "--export", exported)
    records = Setting.of("dialog").store.load()
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "twin"))
    code, out, _ = run("tune", "--import", exported)
    assert code == 0
    assert f"took {len(records)} of the {len(records)} records" in out
    assert Setting.of("dialog").store.load() == records
    assert "took 0 of" in run("tune", "--import", exported)[1]
    before = table().read_bytes()
    tune(run)
    assert table().read_bytes() == before, "a twin has nothing left to measure"


def test_tables_of_one_kind_of_machine_merge(run: Run, tmp_path: Path) -> None:
    one, two, both = (str(tmp_path / name) for name in ("one", "two", "both"))
    tune(run, "--export", one)
    text = Path(one).read_text()
    header, *lines = text.splitlines()
    half = len(lines) // 2
    Path(one).write_text("\n".join([header, *lines[:half], ""]))
    Path(two).write_text("\n".join([header, *lines[half:], ""]))
    code, _, _ = run("tune", "--merge", one, two, "--export", both)
    assert (code, Path(both).read_text()) == (0, text)
    run("tune", "--merge", two, one, "--export", both)
    assert Path(both).read_text() == text
    foreign = msgspec.json.decode(header)
    foreign["fingerprint"]["threads"] = "64"
    Path(two).write_text("\n".join([msgspec.json.encode(foreign).decode(), *lines, ""]))
    code, _, err = run("tune", "--merge", one, two, "--export", both)
    assert code == 2
    assert "unlike machines (threads 64 there" in err
    code, _, err = run("tune", "--import", two)
    assert code == 2
    assert "another kind of machine: threads 64 there" in err


@pytest.mark.parametrize(
    ("argv", "words"),
    [
        (["tune"], "which model?"),
        (["tune", "--import", "/nonexistent"], "/nonexistent: No such file"),
        (["tune", "--export", "/tmp/never"], "nothing was measured on this machine yet"),
        (["tune", "MODEL", "--scenario", "dialogue"], "did you mean dialog?"),
        (["tune", "MODEL", "--concurrency", "0"], "from 1 on"),
        (["tune", "MODEL", "--dtype", "int3"], "int3"),
        (["inspect", "why", "embedding"], "did you mean embed?"),
    ],
)
def test_wrong_usage_is_told(fresh: Run, argv: list[str], words: str) -> None:
    code, _, err = fresh(*argv)
    assert code == 2
    assert words in err


def test_a_damaged_table_is_kept_aside_and_all_is_measured_anew(run: Run) -> None:
    tune(run)
    whole = table().read_bytes()
    table().write_bytes(whole.replace(b'"timing"', b'"timming"', 1))
    tune(run)
    assert table().with_name(table().name + ".damaged-1").exists()
    timings = [record for record in Setting.of("dialog").store.load() if isinstance(record, Timing)]
    assert len(timings) == whole.count(b'"type":"timing"')


def test_times_of_another_machine_are_named_and_not_used(run: Run, tmp_path: Path) -> None:
    tune(run)
    text = table().read_text()
    table().write_text(text.replace('"threads":"', '"threads":"9'))
    table().rename(table().with_name("times-1-0123456789abcdef.jsonl"))
    out = tune(run)
    assert "not used, since measured elsewhere: times-1-0123456789abcdef.jsonl: threads 9" in out


def test_a_busy_machine_is_told(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "getloadavg", lambda: (9.3, 1.0, 1.0))
    _, _, err = run("tune", "MODEL", "--dtype", "float32")
    assert "busy (load 9.3" in err
    assert "--again" in err


def test_ctrl_c_leaves_what_was_measured(fresh: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    def stop(self: object, packed: object, *inputs: object) -> None:
        raise KeyboardInterrupt

    from fullbore.kernels.torch.moe import TorchMoeFfn

    with monkeypatch.context() as patch:
        patch.setattr(TorchMoeFfn, "run", stop)
        assert fresh("tune", "MODEL", "--dtype", "float32")[0] == 130
    before = Setting.of("dialog").store.load()
    assert any(isinstance(record, Timing) for record in before)
    tune(fresh)
    after = Setting.of("dialog").store.load()
    assert {record for record in before if isinstance(record, Timing | Verdict)} < set(after)
