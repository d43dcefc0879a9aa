"""The command: its verbs, its errors, and flags that come from the environment."""

import argparse
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from fullbore import __version__, cli, flags
from fullbore.errors import CapacityError, UsageError

unhurried = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])  # no test fails on time


def fullbore(*arguments: str, stdout: int | None = subprocess.PIPE) -> "subprocess.CompletedProcess[str]":
    command = [sys.executable, "-m", "fullbore", *arguments]
    return subprocess.run(command, stdout=stdout, stderr=subprocess.PIPE, text=True, timeout=60)


def parser() -> flags.Parser:
    made = flags.Parser(prog="fullbore serve")
    made.add_argument("model")
    made.add_argument("--port", type=int, default=8000)
    made.add_argument("--max-model-len", "--context-length", "-c", type=int, default=0)
    made.add_argument("--dtype", choices=("auto", "float32"), default="auto")
    made.add_argument("--eager", action="store_true")
    made.add_argument("--no-cache", dest="cache", action="store_false")
    made.add_argument("--prefix", action=argparse.BooleanOptionalAction, default=True)
    made.add_argument("--api-key", action="append", default=[])
    made.add_argument("--needed", required=True)
    return made


def parse(*argv: str, **environ: str) -> argparse.Namespace:
    return flags.parse(parser(), argv, {"FULLBORE_NEEDED": "x", "PATH": "/bin", **environ})


def test_help_lists_every_verb_and_imports_nothing_heavy() -> None:
    program = (
        "import sys; from fullbore.cli import main; main(['--help']); "
        "heavy = {'torch', 'aiohttp', 'fastapi', 'numpy', 'rich', 'asyncio'} & set(sys.modules); "
        "sys.exit(len(heavy))"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    assert all(f"  {name} " in done.stdout for name in cli.VERBS)


def test_version_and_exit_codes() -> None:
    assert fullbore("--version").stdout == f"fullbore {__version__}\n"
    assert fullbore().returncode == 2
    assert fullbore("bench", "--help").returncode == 0


@pytest.mark.parametrize(
    ("argv", "named"),
    [
        (["bnch"], "did you mean bench?"),
        (["--verson"], "did you mean --version?"),
        (["tume"], "unknown verb tume (did you mean tune?)"),
        (["tune"], "which model?"),
        (["bench", "--concurency", "4"], "unknown flag --concurency (did you mean --concurrency?)"),
        (["bench", "--concurency=4"], "unknown flag --concurency (did you mean --concurrency?)"),
        (
            ["bench", "--conc", "4"],
            "unknown flag --conc",
        ),  # no abbreviations: they break when a flag is added
        (["bench", "a", "b"], "unexpected argument b"),
        (["bench", "-x"], "unexpected argument -x"),
        (["bench", "--requests", "many"], "'many', expected a whole number from 1"),
        (["bench"], "no server is named"),
    ],
)
def test_wrong_usage_exits_2_and_says_what_was_meant(
    argv: list[str], named: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main(argv) == 2
    error = capsys.readouterr().err
    assert error.startswith("fullbore: error: ")
    assert named in error


def test_an_unknown_variable_exits_2_with_the_closest(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(cli, "VERBS", {"bench": cli.VERBS["bench"]})
    monkeypatch.setenv("FULLBORE_CONCURENCY", "4")
    assert cli.main(["bench", "http://127.0.0.1:1"]) == 2
    assert (
        "FULLBORE_CONCURENCY stands for no flag (did you mean FULLBORE_CONCURRENCY?)"
        in capsys.readouterr().err
    )


def test_a_variable_of_another_verb_is_no_error(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    (tmp_path / "other_verb.py").write_text(
        "def configure(parser): parser.add_argument('--harbour')\ndef run(args): return 0\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setattr(cli, "VERBS", {"bench": cli.VERBS["bench"], "other": cli.Verb("other_verb", "other")})
    monkeypatch.setenv("FULLBORE_HARBOUR", "4")
    assert cli.main(["bench"]) == 2
    assert "no server is named" in capsys.readouterr().err


def _verb(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, body: str, extra: str = "") -> None:
    (tmp_path / "scripted_verb.py").write_text(f"def configure(parser): pass\ndef run(args):\n    {body}\n")
    monkeypatch.delitem(sys.modules, "scripted_verb", raising=False)
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setattr(cli, "VERBS", {"go": cli.Verb("scripted_verb", "go", extra)})


@pytest.mark.parametrize(
    ("body", "code", "said"),
    [
        ("return 0", 0, ""),
        ("raise KeyboardInterrupt", 130, "fullbore: interrupted\n"),
        ("raise BrokenPipeError", 141, ""),
        ("raise OSError(28, 'No space left on device', '/tmp/x')", 1, "the disk is full writing /tmp/x"),
        (
            "raise PermissionError(13, 'Permission denied', '/x/y')",
            1,
            "/x/y cannot be used: Permission denied",
        ),
        ("open('/dev/null/x', 'w')", 1, "/dev/null/x cannot be used: Not a directory"),
        ("from fullbore.errors import CapacityError; raise CapacityError('too big')", 1, "error: too big"),
        ("import no_such_thing", 1, "needs the Python package no_such_thing"),
    ],
)
def test_how_a_verb_can_end(
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    body: str,
    code: int,
    said: str,
) -> None:
    _verb(monkeypatch, tmp_path, body, extra="train")
    assert cli.main(["go"]) == code
    error = capsys.readouterr().err
    assert said in error
    assert "Traceback" not in error


def test_other_faults_are_not_hidden(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    _verb(monkeypatch, tmp_path, "raise PermissionError(13, 'no')")
    with pytest.raises(PermissionError):
        cli.main(["go"])
    assert CapacityError.exit_code == 1


def test_a_full_disk_and_a_closed_pipe() -> None:
    with open("/dev/full", "w") as full:
        done = fullbore("--version", stdout=full.fileno())
    assert (done.returncode, done.stderr.count("\n")) == (1, 1)
    assert "the disk is full" in done.stderr
    with subprocess.Popen(["true"], stdin=subprocess.PIPE) as reader:
        reader.wait()
        assert reader.stdin is not None
        done = fullbore("--help", stdout=reader.stdin.fileno())
    assert (done.returncode, done.stderr) == (141, "")


def test_a_flag_wins_over_its_variable_and_that_over_the_default() -> None:
    assert parse("m").port == 8000
    assert parse("m", FULLBORE_PORT="9").port == 9
    assert parse("m", "--port", "7", FULLBORE_PORT="9").port == 7
    assert parse("m", "--port", "8000", FULLBORE_PORT="9").port == 8000  # also when it is the default
    assert parse("m", "--port", "7", FULLBORE_PORT="nonsense").port == 7


@unhurried
@given(st.integers(-(10**9), 10**9))
def test_a_variable_is_converted_as_its_flag(value: int) -> None:
    assert parse("m", FULLBORE_MAX_MODEL_LEN=str(value)) == parse("m", f"--max-model-len={value}")


def test_variables_of_every_kind_of_flag() -> None:
    assert parse("m", FULLBORE_CONTEXT_LENGTH="5").max_model_len == 5
    assert parse("m", FULLBORE_DTYPE="float32").dtype == "float32"
    assert parse("m", FULLBORE_NEEDED="y").needed == "y"
    assert parse("m", FULLBORE_API_KEY="a b").api_key == ["a", "b"]
    assert parse("m", "--api-key", "c", FULLBORE_API_KEY="a b").api_key == ["c"]


@pytest.mark.parametrize(
    ("text", "truth"), [("1", True), ("yes", True), ("TRUE", True), ("0", False), ("off", False)]
)
def test_switches(text: str, truth: bool) -> None:
    assert parse("m", FULLBORE_EAGER=text).eager is truth
    assert parse("m", FULLBORE_NO_CACHE=text).cache is not truth
    assert parse("m", FULLBORE_PREFIX=text).prefix is truth
    assert parse("m", FULLBORE_NO_PREFIX=text).prefix is not truth
    assert parse("m", "--eager", FULLBORE_EAGER="0").eager is True


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("FULLBORE_PORT", "80a"),
        ("FULLBORE_DTYPE", "flaot32"),
        ("FULLBORE_EAGER", "maybe"),
        ("FULLBORE_PORT", ""),
    ],
)
def test_a_bad_variable_is_named_with_its_value(name: str, text: str) -> None:
    with pytest.raises(UsageError) as error:
        parse("m", **{name: text})
    assert f"{name}={text!r}" in str(error.value)


def test_nested_verbs_have_variables_too() -> None:
    outer = flags.Parser(prog="fullbore train")
    inner = outer.add_subparsers(dest="stage").add_parser("sft")
    inner.add_argument("--steps", type=int, default=1)
    assert flags.variables(outer) == {"FULLBORE_STEPS"}
    assert flags.parse(outer, ["sft"], {"FULLBORE_STEPS": "3"}).steps == 3
    with pytest.raises(UsageError, match=r"did you mean --steps"):
        flags.parse(outer, ["sft", "--step", "3"], {})


@unhurried
@given(st.lists(st.sampled_from(["FULLBORE_PORT", "HOME", "fullbore_port", "FULLBORE"]), unique=True))
def test_only_our_own_variables_are_judged(names: Sequence[str]) -> None:
    flags.refuse_unknown_variables(names, {"FULLBORE_PORT"})


UNITS = st.one_of(
    st.tuples(st.just(flags.duration), st.sampled_from(sorted(flags.DURATIONS_S.items()))),
    st.tuples(st.just(flags.bandwidth), st.sampled_from(sorted(flags.BANDWIDTHS_BYTES_S.items()))),
)


@given(UNITS, st.floats(1e-6, 1e6), st.sampled_from(["", " "]))
def test_a_quantity_is_its_number_times_its_unit(
    kind: tuple[Callable[[str], float], tuple[str, float]], number: float, gap: str
) -> None:
    parse, (unit, factor) = kind
    assert parse(f"{number!r}{gap}{unit}") == pytest.approx(number * factor)


@pytest.mark.parametrize(
    "text", ["2010", "", "s", "0s", "-1s", "nans", "1 fortnight", "1e999s", "1.2.3ms", "93MS"]
)
def test_a_quantity_without_its_unit_is_refused_with_an_example(text: str) -> None:
    with pytest.raises(argparse.ArgumentTypeError, match=r"expected a duration above 0 with its unit .*93ms"):
        flags.duration(text)
