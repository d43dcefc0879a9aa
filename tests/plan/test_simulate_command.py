"""``fullbore plan simulate``: what it writes, what that says of itself, and what it refuses."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from fullbore import cli
from fullbore.bench.read import read_results
from fullbore.results.result import Result
from fullbore.scenario.arrival import ClosedLoop
from fullbore.scenario.length_values import parse_lengths
from fullbore.scenario.protocol import stream_of
from fullbore.scenario.scenario import load_scenario
from fullbore.steptime.version import model_version

WAY = ["plan", "simulate", "--server", "8xMI300X", "--kv", "fp8", "--scale", "1/16"]


def simulated(path: Path, *arguments: str) -> list[Result]:
    assert cli.main([*WAY, *arguments, "--save", str(path)]) == 0
    return list(read_results(str(path)))


@pytest.mark.parametrize("engine", ["sglang", "fullbore"])
def test_a_file_as_of_a_bench_that_says_what_it_rests_on(tmp_path: Path, engine: str) -> None:
    results = simulated(tmp_path / "s.json", "--engine", engine, "--concurrency", "2,8")
    assert [result.concurrency for result in results] == [2, 8]
    for result in results:
        got, rests_on = result.figures, result.simulated
        assert rests_on is not None
        assert rests_on.version == model_version()
        assert "8xMI300X" in rests_on.hardware
        assert ("fullbore serve" in rests_on.scheduler) == (engine == "fullbore")
        assert set(rests_on.deviation) == {"tpot_ms", "ttft_ms", "output_tok_s"}
        assert result.tool.startswith("fullbore plan simulate")
        assert result.server.flags["server"] == "8xMI300X"
        assert got.requests_ok == max(8, 4 * (result.concurrency or 0))  # as a bench has
        assert got.littles_law == pytest.approx(1, abs=0.02)
        for name in ("tpot_ms", "ttft_ms", "output_tok_s"):
            span, value = result.model_range(name), result.value(name)
            assert span is not None
            assert value is not None
            assert span[0] < value < span[1]
    first, second = (result.value("tpot_ms") for result in results)
    assert first is not None
    assert second is not None
    assert first < second


def test_it_asks_what_a_bench_asks(tmp_path: Path) -> None:
    """The same lengths in the same order: both draw them by the seed and the load."""
    asked = ("--seed", "7", "--input", "10-40", "--output", "5-20", "--concurrency", "3")
    (result,) = simulated(tmp_path / "s.json", "--engine", "fullbore", "--scale", "1", *asked)
    scenario = load_scenario("dialog")
    drawn = replace(
        scenario,
        seed=7,
        input=parse_lengths("10-40", ""),
        output=parse_lengths("5-20", ""),
        arrival=ClosedLoop(3),
    )
    expected = {
        session.number: (session.requests[0].input_tokens, session.requests[0].output_tokens)
        for session in drawn.sessions(stream_of(drawn.arrival, 0), 12)
    }
    assert {each.session: (each.asked_input, each.asked_output) for each in result.records} == expected


def test_what_is_printed_is_what_is_written(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "s.json"
    asked = [*WAY, "--engine", "sglang", "--concurrency", "2", "--json", "--save", str(path)]
    assert cli.main(asked) == 0
    printed, written = json.loads(capsys.readouterr().out), json.loads(path.read_text())
    assert _without_time(printed) == _without_time(written)
    assert cli.main(asked[:-3]) == 0
    told = capsys.readouterr().out
    assert "simulated, not measured" in told
    assert "80 of 100 truths lie in" in told


def _without_time(report: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in report.items() if key != "created"}


def test_the_scheduler_that_serves_runs_any_scenario(tmp_path: Path) -> None:
    asked = ("--engine", "sglang", "--scheduler", "fullbore")
    (result,) = simulated(tmp_path / "r.json", *asked, "--rate", "4", "--requests", "20")
    assert result.rate_s == 4
    assert result.figures.requests_ok == 20
    (talk,) = simulated(tmp_path / "t.json", *asked, "--scenario", "chat", "--requests", "4")
    assert max(record.turn for record in talk.records) > 0


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        ("--engine sglang --rate 4", "--scheduler fullbore"),
        ("--engine sglang --concurrency 2 --seconds 3", "--scheduler fullbore"),
        ("--engine sglang --scenario chat --concurrency 2", "--scheduler fullbore"),
        ("--engine fullbore --mtp 1", "drafts nothing yet"),
        ("--engine sglang --input 200000 --scale 1", "use for instance --scale 1/2"),
        ("--engine sglang --save /nowhere/s.json", "there is no folder /nowhere"),
        ("--engine sglang --scheduler vllm", "invalid choice"),
    ],
)
def test_what_cannot_be_simulated(arguments: str, named: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main([*WAY, *arguments.split()]) == 2
    assert named in capsys.readouterr().err
