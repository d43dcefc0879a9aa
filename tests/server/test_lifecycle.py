"""Clients that leave, read slowly or wait too long; queues that are full; engines that die."""

import json
import socket
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any

import pytest
from live_server import Live, fake_engine, live, tokenizer

from fullbore.server.limits import Limits

CHAT = "/v1/chat/completions"


def request_bytes(path: str, body: dict[str, Any]) -> bytes:
    data = json.dumps(body).encode()
    head = f"POST {path} HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\n"
    return f"{head}content-length: {len(data)}\r\n\r\n".encode() + data


@contextmanager
def asked(server: Live, **fields: Any) -> Iterator[socket.socket]:
    """A connection on which a long completion was just asked for."""
    body = {"prompt": "hi", "max_tokens": 200, "ignore_eos": True, **fields}
    with socket.socket() as connection:
        connection.settimeout(60)
        connection.setsockopt(
            socket.SOL_SOCKET, socket.SO_RCVBUF, 4096
        )  # or it would read ahead of its reader
        connection.connect(("127.0.0.1", server.port))
        connection.sendall(request_bytes("/v1/completions", body))
        yield connection


def read_until(connection: socket.socket, found: Callable[[bytes], bool]) -> bytes:
    got = b""
    while not found(got):
        data = connection.recv(65536)
        if not data:
            break
        got += data
    return got


@pytest.mark.parametrize("stream", [True, False])
@pytest.mark.parametrize("n", [1, 3])
@pytest.mark.parametrize("queued", [True, False])
def test_a_client_that_leaves_frees_its_requests(stream: bool, n: int, queued: bool) -> None:
    """Before its first token and in the middle."""
    with live() as server:
        server.engine.first_delay_s = 60.0 if queued else 0.0
        server.engine.delay_s = 0.02
        with asked(server, stream=stream, n=n) as connection:
            assert server.wait_until(lambda: server.engine.open == n)
            if stream and not queued:
                read_until(connection, lambda got: got.count(b"data: ") > 3)
        assert server.nothing_leaks()
        server.engine.first_delay_s = 0.0
        assert server.complete().status == 200


def test_a_client_that_leaves_after_the_end_disturbs_nobody() -> None:
    with live() as server:
        for _ in range(5):
            with asked(server, stream=True) as connection:
                read_until(connection, lambda got: b"[DONE]" in got)
        assert server.nothing_leaks()
        assert server.complete().status == 200


def test_a_client_may_keep_its_connection_and_pipeline() -> None:
    with live() as server, asked(server, stream=True) as connection:
        connection.sendall(request_bytes(CHAT, {"messages": [{"role": "user", "content": "x"}]}))
        got = read_until(connection, lambda got: b'"chat.completion"' in got)
        assert got.count(b"HTTP/1.1 200") == 2


def test_a_slow_reader_is_given_up() -> None:
    """Logprobs make every event large, so the connection's buffers fill; then nothing is read."""
    with live(
        fake_engine(max_model_len=200_000), limits=Limits(send_timeout_s=0.5), send_buffer=4096
    ) as server:
        with asked(server, stream=True, max_tokens=100_000, logprobs=20) as connection:
            read_until(connection, lambda got: b"data: " in got)
            assert server.nothing_leaks(60)
            assert b"[DONE]" not in read_until(connection, lambda got: False)
        assert server.complete().status == 200


def test_a_reader_too_many_tokens_behind_is_given_up() -> None:
    limits = Limits(send_timeout_s=30.0, unsent_events=500)
    with live(fake_engine(max_model_len=200_000), limits=limits, send_buffer=4096) as server:
        with asked(server, stream=True, max_tokens=100_000, logprobs=20) as connection:
            assert server.wait_until(lambda: bool(server.engine.submitted))
            assert server.wait_until(lambda: server.engine.open == 0, 60), (
                "the engine is kept busy for nobody"
            )
            assert b"[DONE]" not in read_until(connection, lambda got: False)
        assert server.nothing_leaks()


def test_a_deadline_before_the_first_token_is_408() -> None:
    with live(limits=Limits(request_timeout_s=0.2)) as server:
        server.engine.first_delay_s = 60.0
        for stream in (True, False):
            answer = server.complete(stream=stream)
            assert (answer.status, answer.error["code"]) == (408, "deadline_exceeded")
            assert "x-should-retry" not in answer.headers  # it was only queued
        assert server.nothing_leaks()


def test_a_deadline_in_the_middle_ends_the_stream_with_an_error() -> None:
    with live(limits=Limits(request_timeout_s=0.5)) as server:
        server.engine.delay_s = 0.05
        answer = server.complete(stream=True, max_tokens=200, ignore_eos=True)
        assert answer.status == 200
        assert answer.events[-2]["error"]["code"] == "deadline_exceeded"
        assert answer.events[-1] == "[DONE]"
        whole = server.complete(max_tokens=200, ignore_eos=True)
        assert (whole.status, whole.headers["x-should-retry"]) == (408, "false")
        assert server.nothing_leaks()


def test_a_full_queue_refuses_and_loses_nobody() -> None:
    with live() as server:
        server.engine.queue = 8
        server.engine.delay_s = 0.05
        with ThreadPoolExecutor(24) as pool:
            answers = list(pool.map(lambda number: server.complete(stream=number % 2 == 0), range(24)))
        statuses = [answer.status for answer in answers]
        assert set(statuses) == {200, 503}
        assert statuses.count(200) >= 8
        for answer in answers:
            if answer.status == 503:
                assert (answer.error["code"], answer.headers["retry-after"]) == ("queue_full", "1")
            else:
                assert b'"finish_reason":"stop"' in answer.body
        assert server.nothing_leaks()
        server.engine.queue = 2
        assert server.complete(n=4).status == 503  # all or nothing
        assert server.nothing_leaks()
        rejected = 'fullbore:admission_rejections_total{model_name="demo",reason="queue_full"} '
        assert rejected in server.ask("GET", "/metrics").body.decode()


def test_two_requests_with_one_id_do_not_meet() -> None:
    with live() as server:
        server.engine.delay_s = 0.02
        same = {"x-request-id": "same"}
        bodies = [{"prompt": prompt, "echo": True} for prompt in ("the cat", "apples")]
        with ThreadPoolExecutor(2) as pool:
            answers = list(pool.map(lambda body: server.post("/v1/completions", body, same), bodies))
        assert [answer.json["choices"][0]["text"][:3] for answer in answers] == ["the", "app"]
        assert len({answer.json["id"] for answer in answers}) == 2
        assert {answer.headers["x-request-id"] for answer in answers} == {"same"}


def test_when_the_engine_dies_everybody_is_told_and_then_it_goes_on() -> None:
    with live() as server, ThreadPoolExecutor(8) as pool:
        server.engine.delay_s = 0.05
        running = [
            pool.submit(server.complete, stream=number % 2 == 0, max_tokens=200, ignore_eos=True)
            for number in range(8)
        ]
        assert server.wait_until(lambda: server.engine.open == 8)
        time.sleep(0.2)
        server.call(server.engine.die)
        for number, answer in enumerate(future.result() for future in running):
            if number % 2 == 0:
                assert answer.status == 200
                assert answer.events[-2]["error"]["code"] == "engine_died"
                assert answer.events[-1] == "[DONE]"
            else:
                assert (answer.status, answer.error["code"]) == (503, "engine_died")
                assert "x-should-retry" not in answer.headers
        health = server.ask("GET", "/health")
        assert (health.status, health.json["status"]) == (503, "engine dead")
        assert server.ask("GET", "/ready").status == 503
        refused = server.complete()
        assert (refused.status, refused.headers["retry-after"]) == (503, "5")
        assert server.nothing_leaks()
        server.call(server.engine.revive)
        assert server.ask("GET", "/health").status == 200
        assert server.complete().status == 200


def test_health_is_progress() -> None:
    with live() as server:
        server.engine.last_progress = time.monotonic() - 59
        assert server.ask("GET", "/health").status == 200
        server.engine.last_progress = time.monotonic() - 61
        stalled = server.ask("GET", "/health")
        assert stalled.status == 503
        assert "no step for 61 s" in stalled.json["status"]


def test_while_loading_it_is_healthy_and_not_ready() -> None:
    with live(loaded=False) as server:
        assert server.ask("GET", "/health").json == {"status": "loading"}
        for method, path in (
            ("GET", "/ready"),
            ("POST", CHAT),
            ("POST", "/tokenize"),
            ("POST", "/flush_cache"),
        ):
            answer = server.ask(method, path, {} if method == "POST" else None)
            assert (answer.status, answer.headers["retry-after"]) == (503, "5")
        assert server.ask("GET", "/v1/models").json["data"][0]["max_model_len"] is None
        assert server.ask("GET", "/server_info").json["state"] == "loading"
        server.call(lambda: server.service.attach(server.engine))
        assert server.ask("GET", "/ready").status == 200
        assert server.chat().status == 200


def test_draining_refuses_the_new_and_finishes_the_old() -> None:
    with live() as server, ThreadPoolExecutor(1) as pool:
        server.engine.delay_s = 0.05
        old = pool.submit(server.complete, stream=True)
        assert server.wait_until(lambda: server.engine.open == 1)
        server.call(server.service.lifecycle.drain)
        assert server.ask("GET", "/ready").json["status"] == "shutting_down"
        refused = server.chat()
        assert (refused.status, refused.error["code"], refused.headers["retry-after"]) == (
            503,
            "shutting_down",
            "5",
        )
        assert server.ask("GET", "/health").json == {"status": "draining"}
        assert "error" not in json.dumps(old.result().events)
        assert server.nothing_leaks()


def test_a_slow_head_gets_408_and_a_silent_connection_is_closed() -> None:
    with live(limits=Limits(header_timeout_s=0.4)) as server:
        with socket.create_connection(("127.0.0.1", server.port), timeout=10) as slow:
            started = time.monotonic()
            slow.sendall(b"GET /health HTTP/1.1\r\nhost: loc")
            sender = threading.Thread(target=_trickle, args=(slow,))
            sender.start()
            got = read_until(slow, lambda got: got.endswith(b"}"))
            sender.join()
            assert got.startswith(b"HTTP/1.1 408 ")
            assert b"header_timeout" in got
            assert time.monotonic() - started >= 0.4
        with socket.create_connection(("127.0.0.1", server.port), timeout=10) as silent:
            silent.recv(4096)
            assert silent.recv(4096) == b""


def _trickle(connection: socket.socket) -> None:
    try:
        for _ in range(40):
            connection.sendall(b"a")
            time.sleep(0.05)
    except OSError:
        return  # closed, as it should be


def test_a_slow_body_gets_408() -> None:
    with live(limits=Limits(body_timeout_s=0.4)) as server:
        with socket.create_connection(("127.0.0.1", server.port), timeout=10) as slow:
            head = f"POST {CHAT} HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\n"
            slow.sendall(f"{head}content-length: 1000\r\n\r\n{{".encode())
            assert read_until(slow, lambda got: got.endswith(b"}")).startswith(b"HTTP/1.1 408 ")
        assert server.nothing_leaks()


def test_idle_connections_cost_nobody_else() -> None:
    with live() as server:
        idle = [socket.create_connection(("127.0.0.1", server.port)) for _ in range(300)]
        try:
            for connection in idle:
                connection.sendall(b"GET /health HTTP/1.1\r\nhost: localhost\r\n\r\n")
            assert server.chat().status == 200
            for connection in idle:
                assert connection.recv(4096).startswith(b"HTTP/1.1 200 ")
        finally:
            for connection in idle:
                connection.close()


def test_long_prompts_are_encoded_beside_the_event_loop(monkeypatch: pytest.MonkeyPatch) -> None:
    """While a long text is encoded, others are answered; a short one is not worth a thread."""
    with live() as server, ThreadPoolExecutor(1) as pool:
        held, encode = threading.Event(), tokenizer().encode
        threads: list[str] = []

        def slow(text: str) -> list[int]:
            threads.append(threading.current_thread().name)
            if len(text) > 2048:
                held.wait(10)
            return encode(text)

        monkeypatch.setattr(server.service.tokenizer, "encode", slow)
        long = pool.submit(server.complete, " the" * 1000)
        assert server.wait_until(lambda: len(threads) == 1)
        assert server.complete("hi").status == 200
        held.set()
        assert long.result().error["code"] == "context_length_exceeded"
        assert threads[0].startswith("tokenise")
        assert not threads[1].startswith("tokenise")


def test_many_short_prompts_are_encoded_beside_the_event_loop_too(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each is not worth a thread, but a thousand of them would stop every stream for a second."""
    with live() as server:
        encode = tokenizer().encode
        threads: set[str] = set()

        def watched(text: str) -> list[int]:
            threads.add(threading.current_thread().name.split("_")[0])
            return encode(text)

        monkeypatch.setattr(server.service.tokenizer, "encode", watched)
        assert server.complete(["hi there"] * 300, max_tokens=1).status == 200
        assert threads == {"tokenise"}


def test_a_long_thought_of_an_earlier_turn_is_rendered_beside_the_event_loop(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    with live() as server:
        threads: list[str] = []
        encode_chat = server.service.tokenizer.encode_chat

        def watched(*args: Any, **kwargs: Any) -> list[int]:
            threads.append(threading.current_thread().name)
            return encode_chat(*args, **kwargs)

        monkeypatch.setattr(server.service.tokenizer, "encode_chat", watched)
        thoughtful = {"role": "assistant", "content": "x", "reasoning_content": "the " * 600}
        answer = server.post(CHAT, {"messages": [{"role": "user", "content": "hi"}, thoughtful]})
        assert answer.status == 200
        assert threads[0].startswith("tokenise")
