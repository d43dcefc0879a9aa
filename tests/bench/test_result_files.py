"""Results in files: ours come back as they were, other tools' with their own figures."""

import json
import re
from dataclasses import replace
from pathlib import Path

import pytest

from fullbore.bench.client import Target
from fullbore.bench.compare import Run, compare
from fullbore.bench.load import Load
from fullbore.bench.read import read_results
from fullbore.bench.report import result_of
from fullbore.cli import main
from fullbore.errors import FullboreError
from fullbore.results.result import Result
from fullbore.results.result_file import write_json
from fullbore.results.table import console, report
from fullbore.scenario.arrival import ClosedLoop
from fullbore.scenario.metrics import Record, Spread
from fullbore.scenario.scenario import load_scenario

FILES = Path(__file__).with_name("files")
TARGET = Target("http://127.0.0.1:1", "m", 100, 4096, "mock", "fp8")


def records(count: int, slots: int, ttft_s: float, tpot_s: float, tokens: int = 10) -> tuple[Record, ...]:
    """A closed loop of ``slots``, a little uneven."""
    free_s, made = [0.01 * slot for slot in range(slots)], []
    for number in range(count):
        slot = min(range(slots), key=free_s.__getitem__)
        sent_s = free_s[slot]
        first_s = sent_s + ttft_s * (1 + 0.1 * (number % 3 - 1))
        chunks = tuple(first_s + tpot_s * each for each in range(tokens))
        free_s[slot] = chunks[-1]
        made.append(Record(number, 4, tokens, sent_s, chunks[-1], chunks, 4, tokens))
    return tuple(made)


def result(concurrency: int = 4, tpot_s: float = 0.02, count: int = 80) -> Result:
    failed = Record(count, 4, 10, 1.0, 1.5, outcome="http 503", error="</script> busy")
    load = Load((*records(count, concurrency, 0.2, tpot_s), failed), Spread(3, 0.1, 0.1, 0.2, 0.3, 0.4))
    scenario = replace(load_scenario("dialog"), arrival=ClosedLoop(concurrency))
    return result_of(scenario, concurrency, TARGET, load, told={"version": "1.2", "api_key": "hidden"})


def test_a_file_holds_what_was_measured(tmp_path: Path) -> None:
    kept = [result(), result(2)]
    path = tmp_path / "r.json"
    assert write_json(path, kept) == path
    back = read_results(str(path))
    for before, after in zip(kept, back, strict=True):
        assert after.figures == before.figures
        assert after.certainty == before.certainty
        assert after.timeline == before.timeline
        assert after.itl == before.itl
        assert after.source == str(path)
        assert [each.ttft_s for each in after.records if each.ok] == pytest.approx(
            [each.ttft_s for each in before.records if each.ok], abs=2e-6
        )
    assert "hidden" not in path.read_text()


def test_a_file_that_cannot_be_written_loses_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    other = tmp_path / "spare"
    other.mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(other))
    written = write_json(tmp_path / "gone" / "r.json", [result()])
    assert written.parent == other
    assert len(read_results(str(written))) == 1


@pytest.mark.parametrize("kind", ["vllm_bench_serve", "vllm_bench_serve_detailed", "guidellm"])
def test_other_tools_results_stand_in_one_report(kind: str, capsys: pytest.CaptureFixture[str]) -> None:
    (found,) = read_results(str(FILES / f"{kind}.json"))
    raw = json.loads((FILES / f"{kind}.json").read_text())
    got = found.figures
    assert got.ttft_ms is not None
    assert got.tpot_ms is not None
    # The server behind it was set to 200 and 20 ms.
    assert got.ttft_ms.mean == pytest.approx(207, rel=0.05)
    assert got.tpot_ms.mean == pytest.approx(20, rel=0.01)
    assert got.requests_failed == 0
    if kind.startswith("vllm"):
        assert got.ttft_ms.mean == pytest.approx(raw["mean_ttft_ms"], rel=1e-6)
        assert got.tpot_ms.mean == pytest.approx(raw["mean_tpot_ms"], rel=1e-6)
        assert got.ttft_ms.p50 == pytest.approx(raw["median_ttft_ms"], rel=1e-6)
        assert got.output_tok_s == pytest.approx(raw["output_throughput"], rel=0.02)
        assert got.output_tokens == raw["total_output_tokens"]
    console().print(report([found, result()]))
    told = capsys.readouterr().out
    assert found.tool in told
    assert "nan" not in told


def test_sglangs_lines_are_results_each(tmp_path: Path) -> None:
    line = {
        "backend": "sglang",
        "dataset_name": "random",
        "request_rate": "inf",
        "max_concurrency": 8,
        "duration": 10.0,
        "completed": 16,
        "total_input_tokens": 2048,
        "total_output_tokens": 1600,
        "request_throughput": 1.6,
        "input_throughput": 204.8,
        "output_throughput": 160.0,
        "mean_e2e_latency_ms": 4900.0,
        "median_e2e_latency_ms": 4900.0,
        "mean_ttft_ms": 150.0,
        "median_ttft_ms": 140.0,
        "p99_ttft_ms": 300.0,
        "mean_tpot_ms": 48.0,
        "median_tpot_ms": 48.0,
        "p99_tpot_ms": 60.0,
        "mean_itl_ms": 48.0,
        "concurrency": 7.84,
    }
    path = tmp_path / "online.jsonl"
    path.write_text("\n".join(json.dumps({**line, "max_concurrency": each}) for each in (8, 16)))
    first, second = read_results(str(path))
    assert (first.concurrency, second.concurrency) == (8, 16)
    assert first.tool == "sglang.bench_serving"
    assert first.figures.total_tok_s == pytest.approx(364.8)
    assert first.figures.ttft_ms == Spread(16, 150.0, 140.0, None, 300.0, None)


@pytest.mark.parametrize(
    ("text", "named"),
    [
        ("", "is empty"),
        ("hello", "is not JSON"),
        ('{"schema": "fullbore.bench/2", "results": [{"scen', "cut off"),
        ('{"schema": "fullbore.bench/9"}', "does not know"),
        ('{"schema": "fullbore.bench/2", "results": [{}]}', "is not"),
        ('{"schema": "fullbore.bench/2", "results": []}', "holds no results"),
        ('{"a": 1}', "no benchmark's results"),
        ("[1, 2]", "no benchmark's results"),
    ],
)
def test_what_is_no_result_is_refused(tmp_path: Path, text: str, named: str) -> None:
    path = tmp_path / "x.json"
    path.write_text(text)
    with pytest.raises(FullboreError, match=named) as error:
        read_results(str(path))
    assert str(path) in str(error.value)


def test_runs_are_compared_where_they_measured_the_same(tmp_path: Path) -> None:
    slow, fast = Run("slow", (result(4, 0.03), result(8))), Run("fast", (result(4, 0.02), result(2)))
    found = compare([slow, fast])
    (row,) = found.rows
    assert row.point == "4 in flight"
    before, after = row.of
    assert before is not None
    assert after is not None
    assert before["tpot_ms"].ratio is None
    assert after["tpot_ms"].ratio == pytest.approx(2 / 3)
    assert after["tpot_ms"].differs
    assert after["ttft_ms"].ratio == pytest.approx(1, rel=0.02)
    assert not after["ttft_ms"].differs
    assert len(found.alone) == 2


def test_the_commands(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    paths = [
        str(write_json(tmp_path / f"{name}.json", [result(4, tpot_s)]))
        for name, tpot_s in (("a", 0.02), ("b", 0.03))
    ]
    assert main(["bench", "report", *paths]) == 0
    assert "dialog" in capsys.readouterr().out
    assert main(["bench", "compare", *paths]) == 0
    told = capsys.readouterr().out
    row = next(line for line in told.splitlines() if line.strip().startswith("b "))
    ratios = re.findall(r"~?\d\.\d\d(?= \()", row)
    assert len(ratios) == 3  # output, TTFT, TPOT
    assert ratios[1].startswith("~")
    assert ratios[2] == "1.50"
    assert main(["bench", "compare", paths[0]]) == 2
    assert main(["bench", "report", str(tmp_path / "none.json")]) == 1
    assert "none.json cannot be read" in capsys.readouterr().err
