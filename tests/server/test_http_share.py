"""What the HTTP process takes, measured on itself: all are answered, and longer answers cost more."""

import asyncio

import pytest

from fullbore.engine.messages import Emitted, Sampling
from fullbore.errors import FullboreError
from fullbore.server import http_share
from fullbore.server.http_share import HollowEngine
from fullbore.server.http_share import http_share as measured


def test_a_hollow_engine_gives_all_their_tokens_step_by_step(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(http_share, "STREAMS", 3)
    monkeypatch.setattr(http_share, "STEP_S", 0.0)
    engine = HollowEngine(100)

    async def answer(tokens: int) -> list[Emitted]:
        return [event async for event in engine.generate([1], tokens, Sampling())]

    async def answers() -> list[list[Emitted]]:
        steps = asyncio.create_task(engine.steps())
        found = await asyncio.gather(*map(answer, (1, 4, 2)))
        steps.cancel()
        return list(found)

    found = asyncio.run(answers())
    assert [len(each) for each in found] == [1, 4, 2]
    for events in found:
        assert [event.finish for event in events] == [*[""] * (len(events) - 1), "length"]
        assert all(0 <= event.token < 100 for event in events)


def test_requests_and_tokens_take_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(http_share, "STREAMS", 4)
    found = measured("demo")
    assert found.request_us > 0
    assert 0 < found.token_us < found.request_us


def test_a_server_that_refuses_is_no_measurement(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(http_share, "STREAMS", 2)
    monkeypatch.setattr(http_share, "PROMPT", 1 << 18)  # longer than the context
    with pytest.raises(FullboreError, match="refused its own client"):
        measured("demo")
