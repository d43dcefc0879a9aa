"""A load of several client processes: the same requests, and what is kept when one of them dies."""

import asyncio
import json
import os
import signal
import subprocess
import sys
import time
from array import array
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from fractions import Fraction
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from scripted_server import Script, scripted_server

from fullbore.bench.client import Client
from fullbore.bench.load import Live, Load
from fullbore.bench.running import run
from fullbore.bench.worker_messages import Ended, frame, from_worker
from fullbore.bench.workers import STREAMS, drive_across, processes_for
from fullbore.errors import FullboreError, IntegrityError
from fullbore.hardware.limits import usable_cores
from fullbore.scenario.metrics import CANCELLED, OK, Record
from fullbore.scenario.prompt import RandomWords, Session
from fullbore.scenario.scenario import load_scenario

SMALL = replace(load_scenario("dialog").scaled(Fraction(1, 64)), seed=3)  # 2 tokens in, 16 out
HERE = Path(__file__).parent
GIVE_UP_S = 60


def go(
    url: str,
    sessions: Iterable[Session],
    concurrency: int | None,
    processes: int = 2,
    beside: Callable[[Live], None] | None = None,
    seconds: float = 0.0,
) -> tuple[Load, Live]:
    """``beside``: called with the live figures every few milliseconds as long as the load runs."""
    live = Live()

    async def watch() -> None:
        while True:
            if beside is not None:
                beside(live)
            await asyncio.sleep(0.005)

    async def work() -> Load:
        async with Client(url, timeout_s=5) as client:
            target = await client.discover()
            watching = asyncio.create_task(watch())
            try:
                return await drive_across(
                    processes, client, target, sessions, concurrency, live=live, seconds=seconds
                )
            finally:
                watching.cancel()

    return run(work()), live


def workers_of(parent: int) -> list[int]:
    children = Path(f"/proc/{parent}/task/{parent}/children").read_text().split()
    return [pid for pid in map(int, children) if b"fullbore.bench.worker" in command_of(pid)]


def command_of(pid: int) -> bytes:
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes()
    except OSError:
        return b""


def once(when: Callable[[Live], bool], number: signal.Signals) -> Callable[[Live], None]:
    """Sends ``number`` to the first worker, once, as soon as ``when`` holds."""
    sent: list[int] = []

    def look(live: Live) -> None:
        if not sent and when(live):
            sent.extend(workers_of(os.getpid())[:1])
            os.kill(sent[0], number)

    return look


def until(condition: Callable[[], bool]) -> None:
    give_up_s = time.monotonic() + GIVE_UP_S
    while not condition():
        assert time.monotonic() < give_up_s
        time.sleep(0.02)


@pytest.mark.parametrize("open_loop", [False, True])
def test_the_union_of_requests_is_the_same_for_any_number_of_processes(open_loop: bool) -> None:
    sessions = [
        replace(session, start_s=0.002 * session.number if open_loop else None)
        for session in SMALL.sessions("t", 31)
    ]
    asked = []
    for processes in (1, 3):
        with scripted_server(script := Script(ttft_s=0)) as url:
            done, live = go(url, sessions, None if open_loop else 5, processes)
        assert [record.outcome for record in done.records] == [OK] * 31
        assert sorted(record.number for record in done.records) == list(range(31))
        assert all((record.due_s is not None) == open_loop for record in done.records)
        ends = [record.ended_s for record in done.records]
        assert ends == sorted(ends)
        assert (live.done, live.in_flight, live.failed, live.tokens) == (31, 0, 0, 31 * 16)
        assert done.lag_ms is not None
        assert (done.ended_early, done.failed) == ("", False)
        if not open_loop:
            assert script.most_in_flight <= 5
        asked.append(Counter(tuple(body["prompt"]) for body in script.seen))
    assert asked[0] == asked[1]
    assert not workers_of(os.getpid())


def test_more_processes_than_places_are_not_started() -> None:
    started = 0

    def count(_: Live) -> None:
        nonlocal started
        started = max(started, len(workers_of(os.getpid())))

    with scripted_server(Script(ttft_s=0.1)) as url:
        done, _ = go(url, SMALL.sessions("t", 4), 2, 5, count)
    assert len(done.records) == 4
    assert started == 2


def test_seconds_end_it_for_all_of_them() -> None:
    with scripted_server(Script()) as url:
        done, _ = go(url, SMALL.sessions("t", 100_000), 4, seconds=0.5)
    assert 4 <= len(done.records) < 1000
    assert done.ended_early == "no request was sent after 0.5 s"
    assert not done.failed


def test_one_that_is_killed_ends_the_load_and_the_records_are_kept() -> None:
    kill = once(lambda live: live.done >= 8, signal.SIGKILL)
    with scripted_server(Script(gap_s=0.005)) as url:
        done, live = go(url, SMALL.sessions("t", 100_000), 4, beside=kill)
    assert done.failed
    assert not done.interrupted
    assert "client process 1 was ended by SIGKILL" in done.ended_early
    ok = sum(record.outcome == OK for record in done.records)
    assert ok >= live.done - live.failed >= 8
    assert sum(record.outcome == CANCELLED for record in done.records) == 2  # those of the other one
    assert not workers_of(os.getpid())


def test_one_is_not_interrupted_by_ctrl_c() -> None:
    interrupt = once(lambda live: live.done >= 4, signal.SIGINT)
    with scripted_server(Script()) as url:
        done, _ = go(url, SMALL.sessions("t", 40), 4, beside=interrupt)
    assert [record.outcome for record in done.records] == [OK] * 40


def test_one_that_cannot_do_its_part_says_why(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("fullbore.bench.workers._share", lambda *_: 10**9)
    with (
        scripted_server(Script()) as url,
        pytest.raises(FullboreError, match=r"1000000000 connections at once need"),
    ):
        go(url, SMALL.sessions("t", 4), 4)


def test_one_that_does_not_start_says_why(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONPATH", "")
    monkeypatch.setattr(sys, "executable", "/bin/false")
    with scripted_server(Script()) as url, pytest.raises(FullboreError, match="client process 1 ended with"):
        go(url, SMALL.sessions("t", 4), 4)


def test_sessions_that_cannot_be_drawn_are_an_error_and_no_wait() -> None:
    def sessions() -> Iterator[Session]:
        yield from SMALL.sessions("t", 5)
        raise FullboreError("line 6 of the trace is no JSON")

    with scripted_server(Script()) as url, pytest.raises(FullboreError, match="line 6"):
        go(url, sessions(), 2)
    assert not workers_of(os.getpid())


def test_prompts_that_a_worker_could_not_make_are_refused() -> None:
    class Odd(RandomWords):
        pass

    async def work() -> None:
        async with Client(url) as client:
            target = await client.discover()
            await drive_across(2, client, target, SMALL.sessions("t", 4), 4, material=Odd())

    with scripted_server(Script()) as url, pytest.raises(IntegrityError, match="add it to MATERIALS"):
        run(work())


def test_a_server_that_is_killed() -> None:
    command = [sys.executable, str(HERE / "scripted_server.py"), "--port"]
    with scripted_server(Script()) as url:
        port = int(url.rpartition(":")[2])  # free again in a moment
    url = f"http://127.0.0.1:{port}"
    with subprocess.Popen([*command, str(port)], stdout=subprocess.DEVNULL) as server:
        until(lambda: reachable(url))
        killed = False

        def kill(live: Live) -> None:
            nonlocal killed
            if live.done >= 8 and not killed:
                server.kill()
                killed = True

        done, _ = go(url, SMALL.sessions("t", 100_000), 4, beside=kill)
    assert done.failed
    assert "gave up after 8 failed requests" in done.ended_early
    outcomes = Counter(record.outcome for record in done.records)
    assert outcomes[OK] >= 8
    assert set(outcomes) <= {OK, "stream stopped", "no connection"}
    assert outcomes["no connection"] >= 8


def reachable(url: str) -> bool:
    async def work() -> bool:
        async with Client(url) as client:
            try:
                return bool(await client.discover())
            except FullboreError:
                return False

    return asyncio.run(work())


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGKILL])
def test_no_process_is_left_behind(number: signal.Signals, tmp_path: Path) -> None:
    script = Script(gap_s=0.01)
    with scripted_server(script) as url:
        command = [sys.executable, "-m", "fullbore", "bench", url, "--scale", "1/64", "--requests", "100000"]
        with subprocess.Popen(
            [*command, "--concurrency", "4", "--processes", "2", "--json", str(tmp_path / "report.json")],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
        ) as parent:
            until(lambda: len(script.seen) > 12)
            workers = workers_of(parent.pid)
            os.killpg(parent.pid, number)  # as a terminal does
            out, _ = parent.communicate(timeout=GIVE_UP_S)
        until(lambda: not any(command_of(pid) for pid in workers))
    assert len(workers) == 2
    assert "Traceback" not in out
    if number == signal.SIGINT:
        assert parent.returncode == 130
        assert "interrupted; 4 cancelled in flight" in out
        assert (tmp_path / "report.json").exists()


def test_more_connections_than_files_are_allowed_at_first(tmp_path: Path) -> None:
    path = tmp_path / "report.json"
    with scripted_server(Script(ttft_s=0.5)) as url:
        bench = f"{sys.executable} -m fullbore bench {url} --scale 1/128 --requests 300 --concurrency 300"
        limited = f"ulimit -Sn 100; exec {bench} --processes 2 --json {path}"
        subprocess.run(["bash", "-c", limited], check=True, capture_output=True, timeout=GIVE_UP_S)
    got = json.loads(path.read_text())["results"][0]["figures"]
    assert (got["requests_ok"], got["requests_failed"]) == (300, 0)


records = st.builds(
    Record,
    number=st.integers(0, 10**9),
    asked_input=st.integers(0, 10**6),
    asked_output=st.integers(0, 10**6),
    sent_s=st.floats(0, 1e9),
    ended_s=st.floats(0, 1e9),
    chunks_s=st.lists(st.floats(0, 1e9), max_size=5).map(lambda times: array("d", times)),
    outcome=st.sampled_from([OK, CANCELLED, "http 503"]),
    error=st.text(max_size=20),
    due_s=st.none() | st.floats(0, 1e9),
    turn=st.integers(0, 9),
)


@given(record=records)
def test_a_record_arrives_as_it_was_sent(record: Record) -> None:
    message = from_worker.decode(frame(Ended.of(record))[4:])
    assert isinstance(message, Ended)
    assert message.whole() == record


def test_how_many_processes() -> None:
    assert processes_for(None) == processes_for(1) == processes_for(STREAMS) == 1
    assert processes_for(STREAMS + 1) == min(2, usable_cores())
    assert processes_for(10**6) == usable_cores()
