"""The driver against a server whose truth is known: closed loops, open loops, conversations."""

import asyncio
import resource
import time
from itertools import pairwise
from typing import Any

import pytest
from scripted_server import Script, scripted_server

from fullbore.bench import load as load_module
from fullbore.bench.client import Client
from fullbore.bench.load import Live, Load, drive
from fullbore.bench.running import Turns, run
from fullbore.errors import UsageError
from fullbore.scenario.metrics import CANCELLED, OK
from fullbore.scenario.prompt import Request, Segment, Session

TIMER_S = 0.002  # an event loop's timers may fire so much too early


def session(number: int, turns: int = 1, start_s: float | None = None, think_s: float = 0.0) -> Session:
    """Prompts of 3 tokens, answers of 4."""
    requests = tuple(
        Request(number * turns + turn, (Segment(f"{number}/{turn}", 3),), 4, think_s if turn else 0.0)
        for turn in range(turns)
    )
    return Session(number, requests, start_s)


def go(
    script: Script,
    sessions: list[Session],
    concurrency: int | None,
    endpoint: str = "completions",
    extra_body: dict[str, Any] | None = None,
    **options: Any,
) -> Load:
    async def work() -> Load:
        async with Client(url, endpoint=endpoint, extra_body=extra_body) as client:
            return await drive(client, await client.discover(), sessions, concurrency, **options)

    with scripted_server(script) as url:
        return run(work())


def test_an_open_loop_waits_for_nobody() -> None:
    script = Script(ttft_s=1.5)
    live = Live()
    done = go(script, [session(number, start_s=0.02 * number) for number in range(8)], None, live=live)
    assert [record.outcome for record in done.records] == [OK] * 8
    assert script.most_in_flight == 8
    assert (live.done, live.in_flight, live.tokens) == (8, 0, 8 * 4)
    for record in done.records:
        assert record.due_s is not None
        assert record.due_s - live.started_s >= 0.02 * record.number - TIMER_S
        assert record.sent_s >= record.due_s - TIMER_S
    late_ms = done.late_ms
    assert late_ms is not None
    assert late_ms.count == 8


def test_a_closed_loop_has_no_schedule_and_ramps_up() -> None:
    live = Live()
    done = go(Script(ttft_s=0.6), [session(number) for number in range(4)], 4, ramp_s=0.4, live=live)
    assert all(record.due_s is None for record in done.records)
    assert done.late_ms is None
    for place, sent_s in enumerate(sorted(record.sent_s for record in done.records)):
        assert sent_s >= live.started_s + 0.1 * place - TIMER_S


def test_a_load_begins_when_it_is_told_to() -> None:
    begin_s = time.perf_counter() + 0.3
    done = go(Script(), [session(0)], 1, begin_s=begin_s)
    assert done.records[0].sent_s >= begin_s - TIMER_S


@pytest.mark.parametrize("concurrency", [1, None])
def test_each_turn_repeats_what_was_said(concurrency: int | None) -> None:
    script = Script(ttft_s=0)
    start_s = None if concurrency else 0.0
    done = go(script, [session(0, turns=3, start_s=start_s, think_s=0.05)], concurrency)
    prompts = [body["prompt"] for body in script.seen]
    for before, after in pairwise(prompts):
        assert after.startswith(f"{before}xxx\n")  # of four tokens one is held back and has no text
        assert len(after) > len(before) + 5
    records = done.records
    assert [(record.session, record.turn, record.number) for record in records] == [
        (0, n, n) for n in range(3)
    ]
    assert [record.asked_input for record in records] == [3, 3 + 4 + 3, 3 + 4 + 3 + 4 + 3]
    for earlier, later in pairwise(records):
        assert later.sent_s >= earlier.ended_s + 0.05 - TIMER_S
        assert later.due_s == pytest.approx(earlier.ended_s + 0.05)


def test_a_chat_has_its_answers_as_messages() -> None:
    script = Script()
    done = go(script, [session(0, turns=2)], 1, endpoint="chat", extra_body={"top_p": 0.5})
    first, second = (body["messages"] for body in script.seen)
    (asked,) = first
    said = {"role": "assistant", "content": f"Yousaid:{asked['content'].replace(' ', '')}"}
    assert asked["role"] == "user"
    assert second[:2] == [asked, said]
    assert second[2]["role"] == "user"
    assert all(body["top_p"] == 0.5 for body in script.seen)
    # A thought, "You", "said:" and three words; the opening delta carries no token.
    assert [len(record.chunks_s) for record in done.records] == [6, 6]


def test_a_conversation_ends_with_a_failed_turn() -> None:
    script = Script(faults={1: "503"})
    done = go(script, [session(0, turns=5), session(1)], 1)
    assert [record.outcome for record in done.records] == [OK, "http 503", OK]


def test_nothing_is_sent_after_the_given_seconds() -> None:
    sessions = [session(number, start_s=0.1 * number) for number in range(1000)]
    done = go(Script(ttft_s=0), sessions, None, seconds=0.35)
    assert len(done.records) == 4
    assert done.ended_early == "no request was sent after 0.35 s"
    assert not done.failed
    thinking = go(Script(ttft_s=0), [session(0, turns=2, think_s=1000)], 1, seconds=5)
    assert len(thinking.records) == 1


def test_an_open_loop_bears_refusals_for_a_while(monkeypatch: pytest.MonkeyPatch) -> None:
    sessions = [session(number, start_s=0.005 * number) for number in range(100)]
    done = go(Script(every_fault="503"), sessions, None)
    assert (len(done.records), done.failed) == (100, False)
    monkeypatch.setattr(load_module, "HOPELESS_OPEN_S", 0.0)
    done = go(Script(every_fault="503"), sessions, None)
    assert len(done.records) < 100
    assert done.failed


@pytest.mark.parametrize("concurrency", [3, None])
def test_cancelling_keeps_what_there_is(concurrency: int | None) -> None:
    script = Script(ttft_s=0.01, faults={number: "hang" for number in range(5, 100)})

    async def work() -> Load:
        async with Client(url) as client:
            target = await client.discover()
            live = Live()
            sessions = [session(number, start_s=0.01 * number) for number in range(8)]
            driving = asyncio.create_task(drive(client, target, sessions, concurrency, live=live))
            while not (live.done == 5 and live.in_flight == 3):
                await asyncio.sleep(0.01)
            driving.cancel()
            return await driving

    with scripted_server(script) as url:
        done = run(work())
    assert done.interrupted
    assert not done.failed
    assert [record.outcome for record in done.records] == [OK] * 5 + [CANCELLED] * 3


def test_more_connections_than_files_are_refused_before_anything_is_sent(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(resource, "getrlimit", lambda _: (64, 128))
    with pytest.raises(UsageError, match=r"1000 connections at once need 1064 open files.*128"):
        go(Script(), [session(0)], 1000)


def test_tasks_take_turns_with_the_event_loop() -> None:
    """However many begin at once, what is ready meanwhile waits for one of them."""

    async def work() -> list[str]:
        turns, order = Turns(), list[str]()

        async def begin(number: int) -> None:
            await turns.take()
            order.append(f"begun {number}")

        async def other() -> None:
            while len(order) < 20:
                order.append("other")
                await asyncio.sleep(0)

        async with asyncio.TaskGroup() as group:
            for number in range(6):
                group.create_task(begin(number))
            group.create_task(other())
        return order

    order = run(work())
    assert [each for each in order if each != "other"] == [f"begun {number}" for number in range(6)]
    assert not any(a != "other" and b != "other" for a, b in pairwise(order))
