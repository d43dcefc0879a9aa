"""The comparison of a plan with a run: what it asks, and how errors are told."""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from known_times import PEAKS, records

from benchmarks import predicted
from benchmarks.predicted import between, main
from fullbore.hardware.ceiling import Ceiling, Probes
from fullbore.ops.setting import Setting
from fullbore.plan.http import Http


class Served:
    url = "http://nowhere"

    def wait_ready(self, path: str, timeout_s: float) -> None:
        """At once."""


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> list[tuple[str, int, int]]:
    """Loads that were measured, by a server that takes twice what one decode of the plan takes."""
    seen: list[tuple[str, int, int]] = []

    def bench(url: str, scenario: Any, concurrency: int, requests: int) -> dict[str, Any]:
        seen.append((scenario.name, concurrency, requests))
        return {"tpot_ms": {"mean": 10.0}, "ttft_ms": {"mean": 100.0}, "output_tok_s": 50.0}

    @contextmanager
    def running(command: Any, port: int, log: Path) -> Iterator[Served]:
        yield Served()

    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    Setting.of("dialog").store.append([*records(2.0), *records(2.0, dtype="bfloat16")])
    monkeypatch.setattr(predicted, "bench", bench)
    monkeypatch.setattr(predicted, "running", running)
    monkeypatch.setattr(predicted, "client_us", lambda: 20.0)
    monkeypatch.setattr(predicted, "http", lambda model: Http(1000.0, 40.0))
    monkeypatch.setattr(predicted, "timed_machine", lambda *args, **named: None)
    monkeypatch.setattr(predicted, "probes", lambda: Probes(lambda: 2e10, lambda kind: PEAKS[kind]))
    return seen


def test_every_load_is_measured_and_told(
    asked: list[tuple[str, int, int]], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "rows.json"
    words = ["demo", "--scenarios", "dialog:1/32,code:1/64", "--concurrency", "1,8", "--json", str(path)]
    assert main(words) == 0
    assert asked == [("dialog", 1, 4), ("dialog", 8, 16), ("code", 1, 4), ("code", 8, 16)]
    rows = json.loads(path.read_text())
    assert [(row["scenario"], row["concurrency"]) for row in rows] == [
        ("dialog x 1/32", 1), ("dialog x 1/32", 8), ("code x 1/64", 1), ("code x 1/64", 8)
    ]  # fmt: skip
    for row in rows:
        for name, error in row["errors"].items():
            assert error == pytest.approx(row["predicted"][name] / row["measured"][name] - 1)
    said = capsys.readouterr().out
    assert "HTTP 40 us, client 20 us" in said
    assert "mean, and most" in said


def test_a_failure_keeps_what_was_measured(
    asked: list[tuple[str, int, int]], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    once = predicted.bench

    def bench(url: str, scenario: Any, concurrency: int, requests: int) -> dict[str, Any]:
        if asked:
            raise predicted.FullboreError("3 of 16 requests failed")
        return once(url, scenario, concurrency, requests)

    monkeypatch.setattr(predicted, "bench", bench)
    assert main(["demo", "--scenarios", "dialog:1/32", "--concurrency", "1,8"]) == 1
    seen = capsys.readouterr()
    assert "3 of 16 requests failed" in seen.err
    assert seen.out.count("dialog x 1/32") == 2


def test_half_the_time_at_either_ceiling() -> None:
    found = between(Ceiling(30e9, {"float32": 1.0}), Ceiling(60e9, {"float32": 1.0}))
    assert found == Ceiling(pytest.approx(40e9), {"float32": pytest.approx(1.0)})
