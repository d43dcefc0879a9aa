"""A scenario simulated and the same scenario measured: one kind of result, and the same figures.

The mock server's timing is the truth. The simulator takes its steps' times from it, the bench measures it.
"""

import json
import re
from dataclasses import replace
from fractions import Fraction
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from virtual_mock import closed_loop

from browser import CHROMIUM, open_page
from fullbore.bench.mock.process import running_mock
from fullbore.bench.mock.timing import Timing
from fullbore.bench.read import read_results
from fullbore.cli import main
from fullbore.engine.step import Step
from fullbore.plan.simulator import Server as Served
from fullbore.plan.simulator import simulate
from fullbore.results.identity import Machine, Server, Simulation
from fullbore.results.result import Result
from fullbore.results.result_file import write_json
from fullbore.scenario.arrival import ClosedLoop
from fullbore.scenario.lengths import Fixed
from fullbore.scenario.metrics import Record, Spread, figures
from fullbore.scenario.prompt import Session
from fullbore.scenario.protocol import stream_of
from fullbore.scenario.scenario import Limits, Scenario, load_scenario

LIMITS = Limits(1e9, 1e9)
MODEL = Simulation(
    "mock", "Mock", "the scheduler of fullbore serve", "its timing", "fitted", "1", {"tpot_ms": 0.1}
)


def simulated(timing: Timing, sessions: list[Session], concurrency: int) -> tuple[Record, ...]:
    """Equal requests go through the mock in step with each other, as through an engine whose steps take this
    long: all prompts of a step at once, or a token of each."""

    def seconds(step: Step) -> float:
        prompts = [row.count for row in step.rows if row.first == 0]
        return timing.prefill_s(max(prompts)) if prompts else timing.tpot_with(len(step.rows))

    server = Served(
        pages=4096,
        max_num_seqs=timing.max_running or concurrency,
        max_num_batched_tokens=100_000,
        prefix_caching=False,
    )
    return simulate(sessions, server, seconds, concurrency).records


def mean(spread: Spread | None) -> float:
    assert spread is not None
    return spread.mean


def sessions(inputs: int, outputs: int, concurrency: int, count: int) -> list[Session]:
    scenario = scenario_of(inputs, outputs, concurrency)
    return list(scenario.sessions(stream_of(scenario.arrival, 0), count))


def scenario_of(inputs: int, outputs: int, concurrency: int) -> Scenario:
    dialog = load_scenario("dialog")
    return replace(dialog, input=Fixed(inputs), output=Fixed(outputs), arrival=ClosedLoop(concurrency))


@settings(deadline=None, max_examples=60)
@given(
    concurrency=st.integers(1, 9),
    running=st.integers(0, 5),
    count=st.integers(1, 30),
    inputs=st.integers(1, 40),
    outputs=st.integers(2, 20),
    slowdown=st.sampled_from([0.0, 0.25]),
    per_token=st.sampled_from([0.0, 1 / 1024]),
)
def test_on_an_exact_clock_every_figure_is_the_same(
    concurrency: int, running: int, count: int, inputs: int, outputs: int, slowdown: float, per_token: float
) -> None:
    # Sums of powers of two are exact, so that no tie is broken by rounding.
    timing = Timing(0.25, 1 / 64, per_token, max_running=running, slowdown=slowdown)
    measured = closed_loop(timing, concurrency, count, inputs, outputs)
    modelled = simulated(timing, sessions(inputs, outputs, concurrency, count), concurrency)
    there, here = (figures(records, concurrency, LIMITS) for records in (measured, modelled))
    assert here.output_tokens == there.output_tokens == count * outputs
    for name in (
        "duration_s",
        "output_tok_s",
        "total_tok_s",
        "peak_output_tok_s",
        "littles_law",
        "concurrency",
    ):
        assert getattr(here, name) == pytest.approx(getattr(there, name), rel=1e-9), name
    for name in ("ttft_ms", "tpot_ms", "itl_ms", "latency_ms"):
        ours, theirs = getattr(here, name), getattr(there, name)
        for figure in ("count", "mean", "p50", "p90", "p99", "most"):
            assert getattr(ours, figure) == pytest.approx(getattr(theirs, figure), rel=1e-9), (name, figure)
    # Requests that follow each other in every slot keep Little's law; one that is short of slots cannot.
    if count % concurrency == 0 and (not running or concurrency <= running):
        assert here.littles_law == pytest.approx(1, abs=1e-9)


def test_the_bench_and_the_simulator_agree_and_stand_in_one_plot(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    timing, inputs, outputs, concurrency, count = Timing(0.1, 0.01), 2, 16, 3, 12
    asked = ["--scenario", "dialog", "--scale", "1/64", "--concurrency", str(concurrency), "--seed", "0"]
    seen, made = tmp_path / "measured.json", tmp_path / "simulated.json"
    with running_mock(timing, "--remember", str(count)) as mock:
        assert main(["bench", mock.url, *asked, "--requests", str(count), "--json", str(seen)]) == 0
        kept, late_ms = mock.records(), mock.info()["late_ms"]["most"]
    (measured,) = read_results(str(seen))
    scenario = replace(load_scenario("dialog").scaled(Fraction(1, 64)), arrival=ClosedLoop(concurrency))
    modelled = Result.of(
        scenario,
        concurrency,
        simulated(timing, sessions(inputs, outputs, concurrency, count), concurrency),
        Server(model="mock", software="simulated Mock"),
        client=Machine(),
        rate_s=None,
        tool="fullbore plan simulate",
        simulated=MODEL,
    )
    write_json(made, [modelled])

    # As the server wrote its chunks: within its own lateness of what was simulated.
    written = figures(
        [
            Record(
                each["number"], inputs, outputs, each["arrived_s"], each["chunks_s"][-1], each["chunks_s"],
                each["input_tokens"], each["output_tokens"],
            )
            for each in kept
        ],
        concurrency,
        LIMITS,
    )  # fmt: skip
    ours, theirs = modelled.figures, measured.figures
    assert ours.littles_law == pytest.approx(1)
    assert written.requests_ok == theirs.requests_ok == ours.requests_ok == count
    assert written.output_tokens == theirs.output_tokens == ours.output_tokens
    assert -1e-3 <= mean(written.ttft_ms) - mean(ours.ttft_ms) <= late_ms + 1e-3
    assert abs(mean(written.tpot_ms) - mean(ours.tpot_ms)) * (outputs - 1) <= late_ms + 1e-3
    # As the client saw it, never before: how much later is an affair of this machine.
    assert mean(theirs.ttft_ms) >= mean(ours.ttft_ms) - 1e-3
    assert mean(theirs.latency_ms) >= mean(ours.latency_ms) - 1e-3
    assert theirs.duration_s >= ours.duration_s - 1e-6

    capsys.readouterr()
    page = tmp_path / "both.html"
    assert main(["bench", "compare", str(seen), str(made), "--html", str(page)]) == 0
    told = capsys.readouterr().out
    assert "what is compared differ: measured, simulated" in told
    assert "dialog at scale 1/64" in told
    assert main(["bench", "report", str(made)]) == 0
    told = capsys.readouterr().out
    assert "simulated, not measured" in told
    assert "80 of 100 truths lie in" in told
    (back,) = read_results(str(made))
    assert back.simulated == MODEL
    data = json.loads(re.search(r'type="application/json">(.*?)</script>', page.read_text(), re.S)[1])
    assert [bool(each["simulated"]) for each in data["results"]] == [False, True]
    if CHROMIUM:
        opened = open_page(page, tmp_path / "profile")
        assert opened.console == ()
        assert opened.dom.count('class="legend"') >= 2
        assert "simulated" in opened.dom
