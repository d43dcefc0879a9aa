"""The audit of a published figure: Little's law, solved in any direction, and what is printed of it."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fullbore import cli
from fullbore.bench.audit import Claim, OperatingPoint, needed, readings, solve
from fullbore.errors import UsageError

DIALOG = OperatingPoint(158, 128, 1024, 2.01, 0.093)
CODE = OperatingPoint(140, 512, 4096, 5.53, 0.1)
STATED = ["--concurrency", "158", "--input", "128", "--output", "1024", "--tpot", "93ms", "--ttft", "2.01s"]

points = st.builds(
    OperatingPoint,
    st.floats(1, 1e4),
    st.integers(1, 100_000).map(float),
    st.integers(2, 100_000).map(float),
    st.floats(0.01, 60),
    st.floats(0.001, 1),
)
near = pytest.approx


@pytest.mark.parametrize(("point", "output", "total"), [(DIALOG, 1665, 1874), (CODE, 1382, 1554)])
def test_two_published_points(point: OperatingPoint, output: float, total: float) -> None:
    assert point.output_tok_s == near(output, abs=0.5)
    assert point.total_tok_s == near(total, abs=0.5)
    assert not any(each.fits for each in readings(point, 6708, 8))


@given(points, st.sampled_from(["concurrency", "ttft_s", "tpot_s", "tok_s"]))
def test_whatever_is_left_out_is_found(point: OperatingPoint, missing: str) -> None:
    whole = Claim(
        point.input_tokens,
        point.output_tokens,
        point.concurrency,
        point.ttft_s,
        point.tpot_s,
        point.output_tok_s,
    )
    found = solve(replace(whole, **{missing: None}))
    assert found.concurrency == near(point.concurrency)
    # A short first token beside a long answer is a small difference of large numbers.
    assert found.ttft_s == near(point.ttft_s, abs=1e-9 * point.latency_s)
    assert found.tpot_s == near(point.tpot_s, rel=1e-6)


@given(points, st.floats(1, 1e6), st.integers(1, 64))
def test_every_change_gives_the_claim_and_a_true_claim_fits_its_reading(
    point: OperatingPoint, claimed: float, devices: int
) -> None:
    for each in needed(point, claimed):
        assert claimed == near(each.point.output_tok_s) or claimed == near(each.point.total_tok_s)
    for true in (point.output_tok_s, point.total_tok_s):
        best = readings(point, true, devices)[0]
        assert best.fits
        assert best.ratio == near(1)


@given(points, st.floats(0.001, 1), st.floats(0.1, 100))
def test_people_make_the_requests(point: OperatingPoint, active: float, requests_h: float) -> None:
    people = point.people(active, requests_h)
    assert people * active * requests_h == near(point.concurrency / point.latency_s * 3600)


def test_what_cannot_be_solved_is_refused() -> None:
    with pytest.raises(UsageError, match=r"--ttft and --claimed are missing"):
        solve(Claim(128, 1024, concurrency=158, tpot_s=0.093))
    with pytest.raises(UsageError, match=r"no --tpot above 0 gives --claimed 1e\+09"):
        solve(Claim(128, 1024, concurrency=158, ttft_s=2.01, tok_s=1e9))
    with pytest.raises(UsageError, match="--output 1 says nothing"):
        solve(Claim(128, 1, concurrency=158, ttft_s=2.01, tok_s=100))


def test_the_printed_audit_and_its_file(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "audit.json"
    assert (
        cli.main(["bench", "audit", *STATED, "--claimed", "6708", "--server", "mi308x", "--json", str(path)])
        == 0
    )
    shown = capsys.readouterr().out
    for words in ("1665 tok/s", "1874 tok/s", "5855 an hour", "not consistent", "8 x MI308X", "17.3"):
        assert words in shown
    saved = json.loads(path.read_text())
    assert saved["schema"] == "fullbore.audit/1"
    assert saved["implied"]["output_tok_s"] == near(1665.4, abs=0.1)
    assert saved["floor"]["tensor_parallel_ms"] == near(17.2, rel=0.005)
    assert saved["server"]["device"]["fp8_flop_s"]["mark"] == "scaled"
    assert len(saved["people"]) == 12


def test_a_true_claim_is_consistent_and_habits_are_the_users(capsys: pytest.CaptureFixture[str]) -> None:
    habits = ["--active", "5%", "--requests-per-hour", "10"]
    assert cli.main(["bench", "audit", *STATED, "--claimed", "1874", *habits]) == 0
    shown = capsys.readouterr().out
    assert "consistent, if it counted input and output tokens" in shown
    assert "11710" in shown


def test_a_point_below_the_floor_is_called_impossible(capsys: pytest.CaptureFixture[str]) -> None:
    point = ["--concurrency", "158", "--input", "128", "--output", "1024", "--ttft", "1s"]
    assert cli.main(["bench", "audit", *point, "--tpot", "10ms", "--bandwidth", "5.3TB/s"]) == 0
    assert "impossible" in capsys.readouterr().out
    more = ["--concurrency", "300", *point[2:]]
    assert cli.main(["bench", "audit", *more, "--tpot", "60ms", "--server", "H20-96G"]) == 0
    assert "do not fit in 102.6 GB" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--tpot", "93"], "with its unit"),
        (["--server", "mi300"], "did you mean MI300X"),
        (["--config", "v3"], "the presets are"),
        (["--active", "120%"], "a share above 0"),
        (["--claimed", "0"], "a number above 0"),
    ],
)
def test_a_wrong_flag_is_named(arguments: list[str], words: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["bench", "audit", *STATED, "--bandwidth", "1TB/s", *arguments]) == 2
    assert words in capsys.readouterr().err
