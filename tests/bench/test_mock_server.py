"""``fullbore bench mock`` as a program: spoken to by the openai client, by our own, and by bad clients."""

import asyncio
import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import openai
import openai.types
import pytest

from fullbore import cli
from fullbore.bench.mock import connection
from fullbore.bench.mock.process import RunningMock, running_mock
from fullbore.bench.mock.question import Limits
from fullbore.bench.mock.service import Service
from fullbore.bench.mock.timing import Fate, Timing
from fullbore.errors import FullboreError

QUICK = Timing(ttft_s=0.002, tpot_s=0.0005, tokens_per_chunk=2)


@pytest.fixture(scope="module")
def mock() -> Iterator[RunningMock]:
    with running_mock(QUICK, "--vocab=100", "--max-model-len=200", "--answer-tokens=7") as running:
        yield running


def client(mock: RunningMock) -> openai.OpenAI:
    return openai.OpenAI(base_url=f"{mock.url}/v1", api_key="any", max_retries=0, timeout=60)


def test_the_openai_client_reads_completions(mock: RunningMock) -> None:
    api = client(mock)
    assert [(each.id, each.max_model_len) for each in api.models.list()] == [("mock", 200)]  # type: ignore[attr-defined]
    whole = api.completions.create(model="mock", prompt="one two three", max_tokens=5)
    assert whole.choices[0].text.split() == ["word"] * 5
    assert whole.choices[0].finish_reason == "length"
    assert whole.usage is not None
    assert (whole.usage.prompt_tokens, whole.usage.completion_tokens) == (3, 5)
    chunks = list(
        api.completions.create(
            model="mock", prompt=[1, 2], max_tokens=6, stream=True, stream_options={"include_usage": True}
        )
    )
    assert [len(chunk.choices[0].text.split()) for chunk in chunks[:-1]] == [1, 2, 2, 1]
    assert [chunk.choices[0].finish_reason for chunk in chunks[:-1]] == [None, None, None, "length"]
    assert chunks[-1].usage is not None
    assert (chunks[-1].usage.prompt_tokens, chunks[-1].usage.completion_tokens) == (2, 6)


def test_the_openai_client_reads_chats(mock: RunningMock) -> None:
    api = client(mock)
    parts: Any = [{"type": "text", "text": "d e"}]
    messages: Any = [{"role": "system", "content": "a b c"}, {"role": "user", "content": parts}]
    whole = api.chat.completions.create(model="mock", messages=messages, max_completion_tokens=3)
    assert whole.choices[0].message.content == " word word word"
    assert whole.usage is not None
    assert whole.usage.total_tokens == 5 + 3
    chunks = list(
        api.chat.completions.create(model="mock", messages=messages, max_completion_tokens=3, stream=True)
    )
    assert "".join(chunk.choices[0].delta.content or "" for chunk in chunks) == " word word word"
    assert [chunk.choices[0].delta.role for chunk in chunks] == ["assistant", None]
    assert chunks[-1].choices[0].finish_reason == "length"


@pytest.mark.parametrize(
    ("asked", "tokens", "reason"),
    [
        ({}, 7, "stop"),
        ({"ignore_eos": True}, 20, "length"),
        ({"min_tokens": 9}, 9, "stop"),
        ({"min_tokens": 20}, 20, "length"),
    ],
)
def test_an_answer_ends_where_the_model_would_or_where_it_is_told_to(
    mock: RunningMock, asked: dict[str, Any], tokens: int, reason: str
) -> None:
    whole = client(mock).completions.create(model="mock", prompt="x", max_tokens=20, extra_body=asked)
    assert whole.usage is not None
    assert (whole.usage.completion_tokens, whole.choices[0].finish_reason) == (tokens, reason)


@pytest.mark.parametrize(
    ("body", "status", "said"),
    [
        ({"prompt": ["a", "b"]}, 400, "a list of 2 prompts, expected one"),
        ({"prompt": [[1], [2]]}, 400, "a list of 2 prompts, expected one"),
        ({"prompt": "x", "n": 2}, 400, "n is 2, expected 1"),
        ({"prompt": [1, 100]}, 400, "integers from 0 to 99"),
        ({"prompt": [1, True]}, 400, "integers from 0 to 99"),
        ({"prompt": []}, 400, "prompt is missing or empty"),
        ({}, 400, "prompt is missing or empty"),
        ({"prompt": "x", "max_tokens": 0}, 400, "max_tokens is 0"),
        ({"prompt": "x", "max_tokens": 5, "min_tokens": 6}, 400, "min_tokens is 6"),
        ({"prompt": "x", "max_tokens": 200}, 400, "more than the 200"),
        ({"prompt": "x", "max_tokens": "many"}, 400, "Expected `int | null`, got `str`"),
        ({"prompt": "x", "model": "other"}, 404, "the model 'other' is not served here; expected 'mock'"),
    ],
)
def test_a_bad_request_is_told_what_is_wrong(
    mock: RunningMock, body: dict[str, Any], status: int, said: str
) -> None:
    with pytest.raises(openai.APIStatusError) as caught:
        client(mock).post("/completions", body=body, cast_to=object)
    assert caught.value.status_code == status
    assert said in str(caught.value)


@pytest.mark.parametrize(
    ("sent", "answer"),
    [
        (b"GET /nowhere HTTP/1.1\r\n\r\n", b"404 Not Found"),
        (b"GET /v1/completions HTTP/1.1\r\n\r\n", b"405 Method Not Allowed"),
        (b"what is this\r\n\r\n", b"400 Bad Request"),
        (b"POST /v1/completions HTTP/1.1\r\nContent-Length: 1\r\n\r\n{", b"400 Bad Request"),
        (b"POST /v1/completions HTTP/1.1\r\nContent-Length: 1\r\n\r\n\xff", b"400 Bad Request"),
        (b"GET /ready HTTP/1.0\r\n\r\n", b"200 OK"),
        (b"GET /health?x=1 HTTP/1.1\r\n\r\n", b"200 OK"),
    ],
)
def test_what_is_no_completion_is_answered(mock: RunningMock, sent: bytes, answer: bytes) -> None:
    host, _, port = mock.url.removeprefix("http://").partition(":")
    with socket.create_connection((host, int(port)), timeout=60) as connection:
        connection.sendall(sent)
        assert connection.recv(65536).startswith(b"HTTP/1.1 " + answer)


def stream(mock: RunningMock, tokens: int) -> openai.Stream[openai.types.Completion]:
    return client(mock).completions.create(model="mock", prompt="x", max_tokens=tokens, stream=True)


def outcome(mock: RunningMock) -> tuple[Fate, str]:
    """How one request ended, as its client saw it, and what it was told."""
    try:
        reasons = [chunk.choices[0].finish_reason for chunk in stream(mock, 4)]
    except openai.InternalServerError as error:
        return Fate.REFUSED, f"{error.status_code}, Retry-After: {error.response.headers['Retry-After']}"
    except openai.APIError as error:
        return Fate.ERROR, error.message
    return (Fate.SERVED if reasons[-1] else Fate.STOP), ""


def test_a_client_that_reads_nothing_is_left_after_some_megabytes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connection, "MOST_UNSENT", 100_000)
    lost: list[int] = []

    class Watched(connection.Connection):
        def connection_lost(self, error: Exception | None) -> None:
            super().connection_lost(error)
            lost.append(service.info()["requests"]["cancelled"])

    async def go() -> None:
        loop = asyncio.get_running_loop()
        server = await loop.create_server(lambda: Watched(service, set()), "127.0.0.1", 0)
        client = socket.create_connection(server.sockets[0].getsockname())
        body = b'{"prompt": "x", "max_tokens": 10000000, "stream": true}'
        client.sendall(b"POST /v1/completions HTTP/1.1\r\nContent-Length: %d\r\n\r\n" % len(body) + body)
        while not lost:
            await asyncio.sleep(0)
            service.work(1000)
        client.close()
        server.close()

    service = Service(Timing(0.0, 0.0), Limits(max_model_len=10**8), time.perf_counter, lambda _: None)
    asyncio.run(go())
    assert lost == [1]


def test_failures_reach_the_client_as_such() -> None:
    timing = Timing(0.001, 0.001, refuse_rate=0.3, error_rate=0.3, stop_rate=0.3)
    with running_mock(timing) as mock:
        seen = [outcome(mock) for _ in range(20)]
        told = mock.info()["requests"]
    fates = [fate for fate, _ in seen]
    assert fates == [timing.fate(number) for number in range(20)]
    assert [told[fate.value] for fate in Fate] == [fates.count(fate) for fate in Fate]
    assert {words for fate, words in seen if fate is Fate.REFUSED} == {"503, Retry-After: 1"}
    assert {words for fate, words in seen if fate is Fate.ERROR} == {"failed, as --error-rate has it"}


def test_a_client_that_leaves_a_stalled_answer_is_counted() -> None:
    with running_mock(Timing(0.001, 0.001, stall_rate=1)) as mock:
        with stream(mock, 8) as answer:
            chunks = iter(answer)
            assert all(next(chunks).choices[0].text for _ in range(4))
            wait_for(mock, "stall")
            assert mock.info()["requests"]["running"] == 1
        wait_for(mock, "cancelled")
        assert mock.info()["requests"]["running"] == 0


def wait_for(mock: RunningMock, what: str) -> None:
    """Until it has happened once; the test's own time limit ends this."""
    while mock.info()["requests"][what] != 1:
        pass


def test_our_client_measures_what_the_server_did(tmp_path: Path) -> None:
    """It never sees a time before it was, and agrees within 2 % once times are long beside its own delays.

    A busy machine delays everything by some amount, so times are doubled until that is small beside them; a
    figure that is wrong by its definition is wrong at every scale.
    """
    for scale in (1, 2, 4, 8, 16):
        timing = Timing(ttft_s=0.2 * scale, tpot_s=0.02 * scale, max_running=4)
        with running_mock(timing, "--remember=8") as mock:
            path = tmp_path / f"{scale}.json"
            flags = "--concurrency=4", "--requests=8", "--input=6", "--output=11", f"--json={path}"
            assert cli.main(["bench", mock.url, *flags]) == 0
            records = mock.records()
        got = json.loads(path.read_text())["results"][0]["figures"]
        assert (got["requests_ok"], got["input_tokens"], got["output_tokens"]) == (8, 8 * 6, 8 * 11)
        assert all(len(record["chunks_s"]) == 11 for record in records)
        ttft_ms = sum(each["chunks_s"][0] - each["arrived_s"] for each in records) / 8 * 1e3
        latency_ms = sum(each["chunks_s"][-1] - each["arrived_s"] for each in records) / 8 * 1e3
        assert got["ttft_ms"]["mean"] >= ttft_ms >= timing.ttft_s * 1e3
        assert got["latency_ms"]["mean"] >= latency_ms >= timing.latency_s(6, 11) * 1e3
        truth = (timing.ttft_s * 1e3, timing.tpot_s * 1e3, timing.requests_s(6, 11, 4) * 11)
        found = (got["ttft_ms"]["mean"], got["tpot_ms"]["mean"], got["output_tok_s"])
        if found == pytest.approx(truth, rel=0.02):
            return
    assert found == pytest.approx(truth, rel=0.02)


def test_ctrl_c_ends_it_with_a_word_on_its_lateness() -> None:
    command = [sys.executable, "-m", "fullbore", "bench", "mock", "--port=0", "--ttft=1ms", "--tpot=1ms"]
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True
    ) as process:
        assert process.stdout is not None
        url = process.stdout.readline().split()[-1]
        api = openai.OpenAI(base_url=f"{url}/v1", api_key="any", max_retries=0)
        api.completions.create(model="mock", prompt="x", max_tokens=4)
        forever = api.completions.create(model="mock", prompt="x", max_tokens=100_000, stream=True)
        next(iter(forever))
        os.kill(process.pid, signal.SIGINT)
        out, err = process.communicate(timeout=60)
        forever.close()
    assert (process.returncode, err) == (0, "")
    assert "chunks written; late by" in out


def test_what_cannot_be_served_is_said_clearly(capsys: pytest.CaptureFixture[str]) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        assert cli.main(["bench", "mock", "--port", str(port)]) == 1
    assert f"--port {port}: the port is in use" in capsys.readouterr().err
    assert cli.main(["bench", "mock", "--host", "192.0.2.1", "--port", "0"]) == 1
    assert "cannot listen there" in capsys.readouterr().err
    for flags, said in (
        (("--ttft", "200"), "with its unit"),
        (("--jitter", "2"), "expected a number from 0 to 1"),
        (("--stop-rate", "0.6", "--error-rate", "0.6"), "sum to 1.2, expected at most 1"),
        (("--tokens-per-chunk", "0"), "a whole number from 1"),
    ):
        assert cli.main(["bench", "mock", *flags]) == 2
        assert said in capsys.readouterr().err


def test_a_mock_that_does_not_start_is_an_error() -> None:
    with pytest.raises(FullboreError, match="did not start"), running_mock(Timing(), "--no-such-flag"):
        pass
