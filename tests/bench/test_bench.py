"""``fullbore bench`` against a server whose truth is known: figures, failures, and what a user is told."""

import asyncio
import json
import os
import signal
import socket
import subprocess
import sys
import time
from dataclasses import replace
from fractions import Fraction
from pathlib import Path
from typing import Any

import pytest
from scripted_server import Script, scripted_server

from fullbore import cli
from fullbore.bench.client import Client, base_url
from fullbore.bench.load import Load, drive
from fullbore.errors import UsageError
from fullbore.scenario.metrics import figures
from fullbore.scenario.scenario import load_scenario

SMALL = replace(load_scenario("dialog").scaled(Fraction(1, 64)), seed=3)  # 2 tokens in, 16 out


def load(script: Script, count: int, concurrency: int, timeout_s: float = 60.0, seconds: float = 0.0) -> Load:
    async def go() -> Load:
        async with Client(url, timeout_s=timeout_s) as client:
            target = await client.discover()
            return await drive(client, target, SMALL.sessions("t", count), concurrency, seconds=seconds)

    with scripted_server(script) as url:
        return asyncio.run(go())


def bench(url: str, *arguments: str) -> int:
    return cli.main(["bench", url, "--scale", "1/64", "--requests", "6", "--concurrency", "3", *arguments])


def test_counts_are_exact_and_times_are_no_better_than_the_truth() -> None:
    script = Script(ttft_s=0.05, gap_s=0.01)
    done = load(script, count=9, concurrency=3)
    got = figures(done.records, 3, SMALL.limits)
    assert (got.requests_ok, got.requests_failed) == (9, 0)
    assert (got.input_tokens, got.output_tokens) == (9 * 2, 9 * 16)
    assert got.tokens_per_chunk == 1  # the chunk that only says "length" is no token
    assert script.most_in_flight == 3
    assert got.ttft_ms is not None
    assert got.tpot_ms is not None
    assert got.itl_ms is not None
    assert got.ttft_ms.mean >= 49
    assert got.itl_ms.count == 9 * 15
    # A busy client may stamp the first chunk late, but never the last one early.
    assert got.ttft_ms.mean + 15 * got.tpot_ms.mean >= 199
    assert got.ttft_ms.mean + got.itl_ms.mean * 15 >= 199
    assert got.duration_s >= 3 * (0.05 + 15 * 0.01) * 0.98
    assert got.output_tok_s is not None
    assert got.output_tok_s <= 3 * 16 / 0.2 * 1.02
    assert got.concurrency is not None
    assert 0 < got.concurrency <= 3
    assert done.lag_ms is not None
    assert done.ended_early == ""


def test_every_request_is_as_asked_and_no_two_prompts_are_alike() -> None:
    script = Script(ttft_s=0.0)
    load(script, count=6, concurrency=2)
    assert len({tuple(body["prompt"]) for body in script.seen}) == 6
    for body in script.seen:
        assert body["max_tokens"] == 16
        assert body["ignore_eos"] is True
        assert body["stream"] is True
        assert body["model"] == "scripted"
        assert body["temperature"] == 0
        assert all(125 <= token < 875 for token in body["prompt"])


def test_usage_is_believed_and_chunks_are_counted_without_it() -> None:
    multi = figures(load(Script(tokens_per_chunk=4), 2, 1).records, 1, SMALL.limits)
    assert (multi.output_tokens, multi.tokens_per_chunk) == (32, 4)
    silent = figures(load(Script(usage=False), 2, 1).records, 1, SMALL.limits)
    assert (silent.output_tokens, silent.input_tokens) == (32, 4)


@pytest.mark.parametrize(
    ("fault", "outcome", "words"),
    [
        ("503", "http 503", "queue is full"),
        ("cut", "stream stopped", ""),
        ("end", "stream stopped", "after 8 chunks, without a finish_reason"),
        ("hang", "timeout", "nothing came for 2 s"),
        ("error", "error in stream", "engine died"),
        ("garbage", "unreadable answer", ""),
    ],
)
def test_a_failure_is_an_outcome_and_the_rest_goes_on(fault: str, outcome: str, words: str) -> None:
    done = load(Script(faults={1: fault}), count=5, concurrency=1, timeout_s=2)
    bad = [record for record in done.records if not record.ok]
    assert [record.number for record in bad] == [1]
    assert bad[0].outcome == outcome
    assert words in bad[0].error
    assert figures(done.records, 1, SMALL.limits).requests_ok == 4


def test_a_server_that_only_fails_is_left_alone() -> None:
    script = Script(every_fault="503")
    done = load(script, count=500, concurrency=2)
    assert len(script.seen) < 20
    assert "gave up after 8 failed requests" in done.ended_early
    assert done.failed


def test_a_run_that_was_given_up_has_failed_though_it_began_well(capsys: pytest.CaptureFixture[str]) -> None:
    script = Script(faults={number: "503" for number in range(9, 1000)})
    with scripted_server(script) as url:
        assert bench(url, "--requests", "500") == 1
    assert "gave up after 8 failed requests in a row" in capsys.readouterr().out


@pytest.mark.parametrize("processes", ["1", "2"])
def test_a_chat_with_fields_of_ones_own(processes: str) -> None:
    extra = (
        "--endpoint",
        "chat",
        "--extra-body",
        '{"top_p": 0.5, "temperature": 1}',
        "--processes",
        processes,
    )
    with scripted_server(script := Script()) as url:
        assert bench(url, *extra) == 0
    assert len(script.seen) == 3 + 6
    for body in script.seen:
        assert (body["top_p"], body["temperature"]) == (0.5, 1)
        assert [message["role"] for message in body["messages"]] == ["user"]


def test_no_request_is_sent_after_the_given_seconds() -> None:
    done = load(Script(ttft_s=0.05), count=1000, concurrency=2, seconds=0.3)
    assert 2 <= len(done.records) <= 20
    assert all(record.ok for record in done.records)
    assert "after 0.3 s" in done.ended_early


def test_the_report_on_the_screen_and_in_the_file(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "report.json"
    with scripted_server(Script(short_by=2)) as url:
        assert bench(url, "--json", str(path), "--concurrency", "1,3", "--seed", "5") == 0
    shown = capsys.readouterr()
    assert "dialog at scale 1/64: 2 tokens in, 16 out" in shown.out
    for column in (
        "concurrency",
        "TTFT",
        "TPOT",
        "ITL",
        "p99",
        "output",
        "total",
        "tok/s",
        "failed",
        "Little's",
    ):
        assert column in shown.out
    assert "16/14" in shown.out
    assert "not as long as asked" in shown.out
    assert "6/6 done" in shown.err

    kept = json.loads(path.read_text())
    assert kept["schema"] == "fullbore.bench/2"
    assert [result["concurrency"] for result in kept["results"]] == [1, 3]
    result = kept["results"][1]
    assert result["scenario"]["settings"]["seed"] == 5
    assert result["scenario"]["settings"]["scaled_by"] == "1/64"
    assert result["scenario"]["settings"]["arrival"]["concurrency"] == 3
    assert result["figures"]["output_tokens"] == 6 * 14
    assert result["server"]["model"] == "scripted"
    assert result["requests"]["output_tokens"] == [14] * 6
    assert list(tmp_path.iterdir()) == [path]


def test_the_seed_repeats_the_prompts_and_without_it_they_are_fresh() -> None:
    def prompts(*arguments: str) -> set[tuple[int, ...]]:
        script = Script(ttft_s=0)
        with scripted_server(script) as url:
            assert bench(url, "--input", "32", *arguments) == 0
        return {tuple(body["prompt"]) for body in script.seen}

    assert len(prompts("--seed", "1")) == 3 + 6  # warm-up, then the run; none twice
    assert prompts("--seed", "1") == prompts("--seed", "1")
    assert not prompts() & prompts()


def test_without_a_vocabulary_prompts_are_words_and_it_says_so(capsys: pytest.CaptureFixture[str]) -> None:
    script = Script(vocab_size=0)
    with scripted_server(script) as url:
        assert bench(url) == 0
        assert "prompts were random words" in capsys.readouterr().out
        assert all(len(body["prompt"].split()) == 2 for body in script.seen)
        script.seen.clear()
        assert bench(url, "--vocab", "80") == 0
        assert all(10 <= token < 70 for body in script.seen for token in body["prompt"])


def test_keys(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    with scripted_server(Script(key="s3cret")) as url:
        assert bench(url) == 1
        assert "--api-key, FULLBORE_API_KEY or OPENAI_API_KEY" in capsys.readouterr().err
        path = tmp_path / "report.json"
        assert bench(url, "--api-key", "s3cret", "--json", str(path)) == 0
        assert "s3cret" not in path.read_text()
        monkeypatch.setenv("OPENAI_API_KEY", "s3cret")
        assert bench(url) == 0
    with pytest.raises(UsageError, match="no HTTP header"):
        Client("http://x", "a\nb")


@pytest.mark.parametrize(
    ("script", "arguments", "code", "said"),
    [
        ({"models_status": 503}, (), 1, "answered 503: not now (the server is loading"),
        ({"models_status": 404}, (), 1, "nothing OpenAI-compatible is there"),
        ({"models": "<html>"}, (), 1, "is this an OpenAI-compatible server?"),
        ({"models": {"data": []}}, (), 1, "serves no model"),
        ({}, ("--model", "scriptd"), 2, "does not serve the model 'scriptd' (did you mean scripted?)"),
        ({"models": {"data": [{"id": "a"}, {"id": "b"}]}}, (), 2, "choose one with --model"),
        ({"models": {"data": [{"id": "a", "max_model_len": 17}]}}, (), 2, "use for instance --scale 1/68"),
        ({"every_fault": "503"}, (), 1, "every one of 3 warm-up requests"),
        ({"models": {"data": [{"id": "a", "root": "r"}, {"id": "b"}]}}, (), 2, "choose one with --model"),
        ({}, ("--json", "/nowhere/x.json"), 2, "there is no folder /nowhere"),
        ({}, ("--scale", "2"), 2, "'2' is no scale"),
        ({}, ("--scenario", "dialogue"), 2, "did you mean dialog?"),
        ({}, ("--extra-body", "[1]"), 2, "'[1]' is no JSON object"),
        ({}, ("--endpoint", "chats"), 2, "invalid choice: 'chats'"),
        ({}, ("--url", "http://elsewhere"), 2, "two servers are named"),
    ],
)  # fmt: skip
def test_what_cannot_be_measured_is_said_clearly(
    script: dict[str, Any],
    arguments: tuple[str, ...],
    code: int,
    said: str,
    capsys: pytest.CaptureFixture[str],
) -> None:
    with scripted_server(Script(**script)) as url:
        assert bench(url, *arguments) == code
    assert said in " ".join(capsys.readouterr().err.split())


def test_aliases_of_one_model_need_no_choice() -> None:
    models = {"data": [{"id": "a", "root": "r"}, {"id": "b", "root": "r"}]}
    with scripted_server(script := Script(models=models)) as url:
        assert bench(url) == 0
    assert {body["model"] for body in script.seen} == {"a"}


def test_nobody_there(capsys: pytest.CaptureFixture[str]) -> None:
    with socket.socket() as probe:  # bound but not listening: refused, and nobody else can take it
        probe.bind(("127.0.0.1", 0))
        assert bench(f"127.0.0.1:{probe.getsockname()[1]}") == 1
    error = capsys.readouterr().err
    assert "no server answers at http://127.0.0.1" in error
    assert "fullbore serve demo" in error


@pytest.mark.parametrize("url", ["ftp://x", "http://", "http://x:99999", "http://x:y", "http://me:pw@x", ""])
def test_urls_that_are_none(url: str) -> None:
    with pytest.raises(UsageError):
        base_url(url)


@pytest.mark.parametrize("ending", ["", "/", "/v1", "/v1/", "/v1/completions", "/v1/chat/completions"])
def test_every_spelling_of_a_url(ending: str) -> None:
    assert base_url(f"http://h:1{ending}") == "http://h:1"
    assert base_url(f"h:1{ending}") == "http://h:1"


def test_ctrl_c_keeps_and_prints_what_was_measured(tmp_path: Path) -> None:
    path = tmp_path / "report.json"
    script = Script(ttft_s=0.05, gap_s=0.01)
    with scripted_server(script) as url:
        command = [sys.executable, "-m", "fullbore", "bench", url, "--scale", "1/64", "--json", str(path)]
        with subprocess.Popen(
            [*command, "--concurrency", "2", "--requests", "100000"],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
        ) as process:
            give_up = time.monotonic() + 60
            while len(script.seen) < 12 and time.monotonic() < give_up:
                time.sleep(0.02)
            os.kill(process.pid, signal.SIGINT)
            out, err = process.communicate(timeout=60)
    assert process.returncode == 130, err
    assert "Traceback" not in err
    assert "interrupted; 2 cancelled in flight" in out
    kept = json.loads(path.read_text())["results"][0]
    assert kept["figures"]["requests_ok"] >= 6
    assert kept["figures"]["requests_cancelled"] == 2


def test_using_a_client_outside_its_context_is_a_fault_of_the_caller() -> None:
    with pytest.raises(RuntimeError, match="async with"):
        asyncio.run(Client("http://x").discover())


def test_a_server_that_dies_between_discovery_and_load() -> None:
    async def go(url: str) -> Load:
        async with Client(url) as client:
            target = await client.discover()
        async with Client("http://127.0.0.1:1") as client:
            return await drive(client, target, SMALL.sessions("t", 100), 1)

    with scripted_server(Script()) as url:
        done = asyncio.run(go(url))
    assert {record.outcome for record in done.records} == {"no connection"}
    assert len(done.records) == 8


def test_ctrl_c_means_what_it_meant_before() -> None:
    before = signal.getsignal(signal.SIGINT)
    with scripted_server(Script(ttft_s=0)) as url:
        assert bench(url) == 0
    assert signal.getsignal(signal.SIGINT) is before
