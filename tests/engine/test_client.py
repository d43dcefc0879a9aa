"""The client against a real process with a scripted model: nothing hangs, leaks or is lost, whatever dies."""

import asyncio
import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path

import pytest
import uvloop
import zmq
from fake_runner import EXITS, FAILS, HANGS, IS_NAN, VOCAB, expected

from fullbore.engine import client as client_module
from fullbore.engine.client import EngineClient
from fullbore.engine.messages import Emitted, Sampling
from fullbore.engine.options import EngineOptions
from fullbore.errors import CapacityError, FullboreError

PROGRAM = (sys.executable, str(Path(__file__).with_name("scripted_engine.py")))
GREEDY = Sampling(temperature=0.0)
PATIENCE_S = 60.0  # generous: only a hang takes that long


@pytest.fixture(autouse=True)
def impatience(monkeypatch: pytest.MonkeyPatch) -> None:
    """Restarts and a close that is not answered do not take long."""
    monkeypatch.setattr(client_module, "_BACKOFF_S", 0.05)
    monkeypatch.setattr(client_module, "START_ATTEMPTS", 2)
    monkeypatch.setattr(client_module, "_CLOSE_S", 2.0)


def run(
    test: Callable[[], Awaitable[None]], factory: Callable[[], asyncio.AbstractEventLoop] | None = None
) -> None:
    async def bounded() -> None:
        await asyncio.wait_for(test(), 150.0)

    with asyncio.Runner(loop_factory=factory) as runner:
        runner.run(bounded())


@contextlib.asynccontextmanager
async def engine(model: str = "x", **keywords: object) -> AsyncIterator[EngineClient]:
    options = EngineOptions(model, max_num_seqs=8, max_num_batched_tokens=64, max_queued=64)
    client = await EngineClient.start(options, program=PROGRAM, **keywords)  # type: ignore[arg-type]
    try:
        yield client
    finally:
        pid = client.pid
        await client.close()
        if pid:
            with pytest.raises(ProcessLookupError):  # gone and reaped: not even a zombie
                os.kill(pid, 0)


async def collect(client: EngineClient, prompt: list[int], count: int) -> list[Emitted]:
    return [event async for event in client.generate(prompt, count, GREEDY)]


async def until(condition: Callable[[], bool]) -> None:
    end = time.monotonic() + PATIENCE_S
    while not condition():
        assert time.monotonic() < end, "waited in vain"
        await asyncio.sleep(0.02)


def idle(client: EngineClient) -> bool:
    stats = client.stats
    return not (stats.running or stats.waiting or stats.pages_used)


def tokens(events: list[Emitted]) -> list[int]:
    return [event.token for event in events if event.token >= 0]


@pytest.mark.parametrize("factory", [asyncio.new_event_loop, uvloop.new_event_loop])
def test_many_requests_at_once_each_get_their_own_tokens(
    factory: Callable[[], asyncio.AbstractEventLoop],
) -> None:
    async def test() -> None:
        seen: list[tuple[int, int]] = []
        async with engine(on_progress=lambda done, total: seen.append((done, total))) as client:
            assert seen == [(done, 100) for done in range(0, 101, 25)]
            assert client.ready.vocab_size == VOCAB
            answers = await asyncio.gather(*(collect(client, [n, n + 1], 5 + n % 7) for n in range(60)))
            for number, events in enumerate(answers):
                assert tokens(events) == expected([number, number + 1], 5 + number % 7)
                assert [event.finish for event in events][-1] == "length"
            await until(lambda: idle(client))

    run(test, factory)


@pytest.mark.parametrize("way", ["break", "cancel", "error", "forgotten"])
def test_leaving_an_iterator_aborts_its_request_and_frees_its_pages(way: str) -> None:
    async def leave(client: EngineClient) -> None:
        if way == "forgotten":  # the garbage collector closes it
            stream = client.generate([1, 2, 3], 15_000, GREEDY)
            assert not (await anext(stream)).finish
            del stream
            return
        async with contextlib.aclosing(client.generate([1, 2, 3], 15_000, GREEDY)) as events:
            async for event in events:
                assert not event.finish
                if way == "break":
                    break
                if way == "error":
                    raise ValueError
                await asyncio.sleep(0)

    async def test() -> None:
        async with engine() as client:
            task = asyncio.create_task(leave(client))
            await until(lambda: client.stats.pages_used > 0 or task.done())
            if way == "cancel":
                task.cancel()
            try:
                await task
            except (asyncio.CancelledError, ValueError):
                assert way in ("cancel", "error")
            await until(lambda: idle(client))
            assert client.stats.generated_tokens < 15_000
            assert tokens(await collect(client, [4], 3)) == expected([4], 3)

    run(test)


def test_an_iterator_that_is_never_asked_sends_nothing() -> None:
    async def test() -> None:
        async with engine() as client:
            stream = client.generate([1], 10, GREEDY)
            await stream.aclose()
            await collect(client, [2], 1)
            assert client.stats.prompt_tokens == 1

    run(test)


def test_faults_of_a_request_are_its_own() -> None:
    async def test() -> None:
        async with engine() as client:
            well, fails, nan, outside = await asyncio.gather(
                collect(client, [1], 40),
                collect(client, [FAILS], 5),
                collect(client, [IS_NAN], 5),
                collect(client, [VOCAB], 5),
            )
            assert tokens(well) == expected([1], 40)
            assert [events[-1].finish for events in (fails, nan, outside)] == ["error"] * 3
            assert client.stats.corrupted == 1
            assert client.restarts == 0

    run(test)


def test_a_full_queue_refuses_and_loses_nothing() -> None:
    async def test() -> None:
        async with engine("step_s=0.01") as client:
            answers = await asyncio.gather(*(collect(client, [n], 3) for n in range(200)))
            finishes = [events[-1].finish for events in answers]
            assert set(finishes) == {"length", "refused"}
            assert finishes.count("length") >= 64
            assert all(
                tokens(events) == expected([number], 3)
                for number, events in enumerate(answers)
                if finishes[number] == "length"
            )

    run(test)


def test_a_reader_that_stops_reading_is_given_up() -> None:
    async def test() -> None:
        async with engine(unread=50) as client:
            stream = client.generate([1], 15_000, GREEDY)
            first = await anext(stream)
            await until(lambda: client.stats.steps > 0 and idle(client))
            rest = [event async for event in stream]
            assert rest[-1].finish == "abort"
            assert "behind" in rest[-1].error
            got = tokens([first, *rest])
            assert got == expected([1], len(got))
            assert len(got) < 100

    run(test)


@pytest.mark.parametrize("death", ["SIGKILL", "exit", "hang", "SIGSTOP"])
def test_when_the_engine_dies_everybody_hears_of_it_and_a_new_one_serves(death: str) -> None:
    async def test() -> None:
        hang_s = 3.0 if death in ("hang", "SIGSTOP") else 120.0
        async with engine("step_s=0.005", hang_s=hang_s) as client:
            before = client.pid
            open_ones = [asyncio.create_task(collect(client, [n], 15_000)) for n in range(5)]
            await until(lambda: client.stats.running == 5)
            if death.startswith("SIG"):
                os.kill(before, getattr(signal, death))
            else:
                prompt = [EXITS if death == "exit" else HANGS]
                open_ones.append(asyncio.create_task(collect(client, prompt, 5)))
            moved = client.last_progress
            answers = await asyncio.wait_for(asyncio.gather(*open_ones), PATIENCE_S)
            for number, events in enumerate(answers):
                assert (events[-1].finish, events[-1].error) == ("error", "engine died")
                if number < 5:
                    got = tokens(events)
                    assert got == expected([number], len(got))
            assert not client.alive
            with pytest.raises(CapacityError, match="restarting"):
                await collect(client, [1], 1)
            await until(lambda: client.alive)
            assert client.pid != before
            assert client.restarts == 1
            assert client.last_progress >= moved
            assert tokens(await collect(client, [3], 4)) == expected([3], 4)

    run(test)


def test_a_short_stop_of_the_engine_is_no_death() -> None:
    async def test() -> None:
        async with engine("step_s=0.005", hang_s=30.0) as client:
            task = asyncio.create_task(collect(client, [1], 60))
            await until(lambda: client.stats.running == 1)
            os.kill(client.pid, signal.SIGSTOP)
            still = 0.0
            while still != client.last_progress:  # what it had sent before the stop arrives
                still = client.last_progress
                await asyncio.sleep(0.3)
            await asyncio.sleep(0.6)
            assert client.last_progress == still  # what /health looks at
            os.kill(client.pid, signal.SIGCONT)
            assert tokens(await task) == expected([1], 60)
            assert client.restarts == 0

    run(test)


def test_an_engine_that_cannot_start_again_stays_down_and_says_why(tmp_path: Path) -> None:
    async def test() -> None:
        async with engine(f"starts={tmp_path / 'starts'} good_starts=1") as client:
            os.kill(client.pid, signal.SIGKILL)
            await until(lambda: bool(client.failure))
            assert not client.alive
            with pytest.raises(CapacityError, match="exit code 3"):
                await collect(client, [1], 1)
        assert (tmp_path / "starts").read_text() == str(1 + client_module.START_ATTEMPTS)

    run(test)


@pytest.mark.parametrize(
    ("model", "words"),
    [
        ("fails", "field hidden_size is -1"),
        ("dies", "SIGKILL"),
        ("protocol=99", "speaks protocol 99"),
        ("starts=/nonexistent/x", "exit code 1"),
    ],
)
def test_a_start_that_fails_says_why_and_leaves_nothing(model: str, words: str, run_root: Path) -> None:
    async def test() -> None:
        with pytest.raises(FullboreError, match=words):
            async with engine(model):
                pass
        assert list(run_root.iterdir()) == []

    run(test)


def test_a_start_that_is_cancelled_leaves_nothing(run_root: Path) -> None:
    async def test() -> None:
        starting = asyncio.create_task(EngineClient.start(EngineOptions("protocol=1"), program=PROGRAM))
        await until(lambda: bool(list(run_root.iterdir())))
        starting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await starting
        assert list(run_root.iterdir()) == []

    run(test)


def test_close_ends_open_requests_with_abort_and_may_be_called_again() -> None:
    async def test() -> None:
        async with engine("step_s=0.005") as client:
            task = asyncio.create_task(collect(client, [1], 15_000))
            await until(lambda: client.stats.running == 1)
            await client.close()
            events = await task
            assert events[-1].finish == "abort"
            assert tokens(events) == expected([1], len(tokens(events)))
            await client.close()
            assert not client.alive
            with pytest.raises(CapacityError):
                await collect(client, [1], 1)

    run(test)


def test_close_does_not_wait_for_an_engine_that_hangs() -> None:
    async def test() -> None:
        async with engine() as client:
            os.kill(client.pid, signal.SIGSTOP)
            await client.close()
            assert client.pid == 0

    run(test)


def test_sigterm_answers_what_is_there_and_sigint_is_ignored() -> None:
    async def test() -> None:
        async with engine("step_s=0.005") as client:
            pid = client.pid
            task = asyncio.create_task(collect(client, [1], 40))
            await until(lambda: client.stats.running == 1)
            os.kill(pid, signal.SIGINT)
            os.kill(pid, signal.SIGTERM)
            assert tokens(await task) == expected([1], 40)
            await until(lambda: client.pid not in (pid, 0))

    run(test)


def test_garbage_on_either_socket_is_dropped_and_counted(run_root: Path) -> None:
    garbage = [b"", b"\xc1", b"garbage", b"\x81\xa4type\xa6submit", b"\x91" * 100_000, os.urandom(300)]

    async def test() -> None:
        async with engine() as client:
            (run_dir,) = run_root.iterdir()
            assert run_dir.stat().st_mode & 0o777 == 0o700
            context = zmq.Context()
            for name in ("commands", "reports"):
                with context.socket(zmq.PUSH) as socket:
                    socket.connect(f"ipc://{run_dir / name}")
                    for message in garbage:
                        socket.send(message)
                    socket.send_multipart([b"two", b"frames"])
            context.term()
            await until(lambda: client.stats.dropped_messages >= 2 * (len(garbage) + 1))
            assert client.stats.dropped_messages == 2 * (len(garbage) + 1)
            assert tokens(await collect(client, [7], 5)) == expected([7], 5)
            assert client.restarts == 0
        assert list(run_root.iterdir()) == []

    run(test)


def test_the_engine_dies_with_its_parent() -> None:
    code = (
        "import asyncio, sys, time\n"
        "from fullbore.engine.client import EngineClient\n"
        "from fullbore.engine.options import EngineOptions\n"
        "async def main():\n"
        "    client = await EngineClient.start(EngineOptions('x'), program=sys.argv[1:])\n"
        "    print(client.pid, flush=True)\n"
        "    time.sleep(60)\n"
        "asyncio.run(main())\n"
    )
    with subprocess.Popen([sys.executable, "-c", code, *PROGRAM], stdout=subprocess.PIPE) as parent:
        if parent.stdout is None:
            raise AssertionError
        pid = int(parent.stdout.readline())
        parent.kill()
    end = time.monotonic() + PATIENCE_S
    while _runs(pid):
        assert time.monotonic() < end, "the engine outlives its parent"
        time.sleep(0.02)


def _runs(pid: int) -> bool:
    """An orphan that nobody reaps may remain as a zombie; it does not run."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False


def test_the_client_brings_no_torch() -> None:
    code = "import sys, fullbore.engine.client; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
