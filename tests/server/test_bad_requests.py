"""Requests refused for their bytes, headers, path, key or host; and how the server's own faults are told."""

import json
import socket
import time
from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from live_server import Live, live
from model_folders import V3
from refusals import ALL, CHAT, ENVELOPE, GOOD, TEXT, check


@pytest.fixture(scope="module")
def server() -> Iterator[Live]:
    with live(template=V3) as running:
        yield running


@pytest.fixture(autouse=True)
def _nothing_submitted(server: Live) -> None:
    server.engine.submitted.clear()


BODIES = {
    "not JSON": b"hello",
    "empty": b"",
    "blank": b"  \n",
    "cut off": b'{"messages": [',
    "two values": b"{}{}",
    "a list": b"[]",
    "a number": b"1",
    "null": b"null",
    "deep": b'{"a":' + b"[" * 10_000 + b"]" * 10_000 + b"}",
    "deep objects": b'{"a":' * 10_000 + b"1" + b"}" * 10_000,
    "NaN": b'{"temperature": NaN}',
    "Infinity": b'{"temperature": -Infinity}',
    "overflow": b'{"temperature": 1e999}',
    "10000 digits": b'{"seed": ' + b"9" * 10_000 + b"}",
    "invalid UTF-8": b'{"prompt": "\xff\xfe"}',
    "lone surrogate": b'{"prompt": "\\ud800 x", "messages": [{"role": "user", "content": "\\ud800 x"}]}',
    "lone low surrogate": b'{"user": "\\udc00 abcdef"}',
    "a BOM": b"\xef\xbb\xbf{}",
    "raw control": b'{"user": "a\x01"}',
    "UTF-16": '{"prompt": "hi"}'.encode("utf-16"),
}


@pytest.mark.parametrize("path", ALL)
@pytest.mark.parametrize("name", BODIES)
def test_a_body_that_is_no_json_object(server: Live, name: str, path: str) -> None:
    check(server, server.post(path, BODIES[name]), 400, "invalid_json", None)


@pytest.mark.parametrize("path", ALL)
def test_other_content_types_are_refused(server: Live, path: str) -> None:
    for kind in ("text/plain", "application/x-www-form-urlencoded", "multipart/form-data; boundary=x"):
        answer = server.post(path, json.dumps(GOOD[path]).encode(), {"content-type": kind})
        check(server, answer, 415, "unsupported_media_type", None)
    fitting = {"content-type": "Application/JSON; charset=utf-8"}
    assert server.post(path, json.dumps(GOOD[path]).encode(), fitting).status == 200


@pytest.mark.parametrize("path", ALL)
def test_of_duplicate_keys_the_last_wins(server: Live, path: str) -> None:
    good = json.dumps(GOOD[path])
    assert server.post(path, f'{{"model": "other", {good[1:-1]}, "model": "demo"}}'.encode()).status == 200
    answer = server.post(path, f'{{"model": "demo", {good[1:-1]}, "model": "other"}}'.encode())
    assert answer.error["code"] == "model_not_found"


def test_a_million_messages_are_refused_by_their_number(server: Live) -> None:
    body = b'{"messages":[' + b",".join([b"{}"] * 10**6) + b"]}"
    check(server, server.post(CHAT, body), 400, "invalid_value", "messages")


def test_a_body_over_the_limit(server: Live) -> None:
    over = server.service.settings.limits.body_bytes + 1
    connection = socket.create_connection(("127.0.0.1", server.port), timeout=10)
    head = f"POST {CHAT} HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\n"
    with connection:
        connection.sendall(f"{head}content-length: {over}\r\n\r\n".encode())
        assert connection.recv(4096).startswith(b"HTTP/1.1 413 ")  # before any of it was sent
    check(server, server.post(TEXT, b" " * over), 413, "body_too_large", None)
    chunked = socket.create_connection(("127.0.0.1", server.port), timeout=10)
    with chunked:
        chunked.sendall(f"{head}transfer-encoding: chunked\r\n\r\n".encode())
        chunk = b"100000\r\n" + b" " * 2**20 + b"\r\n"
        for _ in range(33):
            chunked.sendall(chunk)
        assert chunked.recv(4096).startswith(b"HTTP/1.1 413 ")


def raw(server: Live, request: bytes) -> bytes:
    """What the server answers to these bytes, until it closes."""
    with socket.create_connection(("127.0.0.1", server.port), timeout=10) as connection:
        connection.sendall(request)
        got = b""
        try:
            while data := connection.recv(65536):
                got += data
                if b"\r\n\r\n" in got and got.endswith(b"}"):
                    break
        except ConnectionResetError:
            pass
        return got


@pytest.mark.parametrize(
    "headers",
    [
        b"".join(b"x-%d: 1\r\n" % i for i in range(300)),
        b"x-long: " + b"a" * 70_000 + b"\r\n",
        b"".join(b"x-%d: " % i + b"a" * 1000 + b"\r\n" for i in range(70)),
        b"x-endless: " + b"a" * 200_000,
    ],
    ids=["300 headers", "one of 70 KB", "70 of 1 KB", "one that never ends"],
)
def test_headers_over_the_limit(server: Live, headers: bytes) -> None:
    head, _, body = raw(server, b"GET /health HTTP/1.1\r\nhost: localhost\r\n" + headers + b"\r\n").partition(
        b"\r\n\r\n"
    )
    assert head.startswith(b"HTTP/1.1 431 ")
    assert json.loads(body)["error"]["code"] == "headers_too_large"
    many = b"".join(b"x-%d: 1\r\n" % i for i in range(200))
    assert b" 200 " in raw(server, b"GET /health HTTP/1.1\r\nhost: localhost\r\n" + many + b"\r\n")


def test_bytes_that_are_no_http(server: Live) -> None:
    for garbage in (
        b"hello\r\n\r\n",
        b"\x16\x03\x01\x02\x00\x01\x00",
        b"GET /\xff HTTP/1.1\r\nhost: localhost\r\n\r\n",
    ):
        head, _, body = raw(server, garbage).partition(b"\r\n\r\n")
        assert head.startswith(b"HTTP/1.1 400 ")
        assert json.loads(body)["error"]["code"] == "invalid_http"


H2C = b"connection: Upgrade, HTTP2-Settings\r\nupgrade: h2c\r\nhttp2-settings: AAEA\r\n"


@pytest.mark.parametrize("cut", [None, 40, -8], ids=["at once", "within the head", "within the body"])
@pytest.mark.parametrize("chunked", [False, True])
def test_an_offer_of_another_protocol_is_passed_over(server: Live, chunked: bool, cut: int | None) -> None:
    """As Java's client makes it: the body counts all the same, and so does what is pipelined behind it."""
    body = json.dumps({**GOOD[TEXT], "max_tokens": 2}).encode()
    length = b"transfer-encoding: chunked" if chunked else b"content-length: %d" % len(body)
    sent = b"%x\r\n%b\r\n0\r\n\r\n" % (len(body), body) if chunked else body
    head = b"POST /v1/completions HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\n"
    bare = b"GET /version HTTP/1.1\r\nhost: localhost\r\n"
    last = bare + H2C + b"\r\n" + bare + b"connection: close\r\n\r\n"
    request = head + length + b"\r\n" + H2C + b"\r\n" + sent
    with socket.create_connection(("127.0.0.1", server.port), timeout=10) as connection:
        if cut is not None:
            connection.sendall(request[:cut])
            time.sleep(0.05)
        connection.sendall((request if cut is None else request[cut:]) + request + last)
        got = b""
        while data := connection.recv(65536):
            got += data
    assert got.count(b"HTTP/1.1 200 ") == 4
    assert got.count(b'"completion_tokens":2') == 2
    assert server.nothing_leaks()


def test_unknown_paths_and_wrong_methods(server: Live) -> None:
    for method, path in (
        ("GET", "/nope"),
        ("POST", "/v1/nope"),
        ("GET", "/docs"),
        ("GET", "/v1/chat"),
        ("GET", "/%00"),
        ("GET", "/health/"),
        ("POST", CHAT + "/"),
    ):
        check(server, server.ask(method, path, {} if method == "POST" else None), 404, "not_found", None)
    for method, path in (("GET", CHAT), ("GET", TEXT), ("DELETE", "/v1/models"), ("POST", "/health")):
        answer = server.ask(method, path)
        check(server, answer, 405, "method_not_allowed", None)
        assert answer.headers["allow"]
    check(server, server.ask("GET", "/v1/models/other"), 404, "model_not_found", "model")


def test_keys_are_asked_for_everywhere_but_where_orchestrators_poll() -> None:
    keys = ["key-one", "schlüssel-zwei"]
    with live(keys=keys) as keyed:
        for path in ("/health", "/ready", "/ping"):
            assert keyed.ask("GET", path).status == 200
        others = [
            ("GET", path)
            for path in ("/v1/models", "/metrics", "/version", "/server_info", "/nope", "/openapi.json")
        ]
        for method, path in [*others, *(("POST", path) for path in ALL), ("POST", "/flush_cache")]:
            for wrong in (
                None,
                "Bearer",
                "Bearer x",
                "Basic key-one",
                "Bearer key-one2",
                "key-one",
                "Bearer key-on",
            ):
                given = {} if wrong is None else {"authorization": wrong}
                answer = keyed.ask(method, path, {} if method == "POST" else None, given)
                check(keyed, answer, 401, "invalid_api_key", None)
                assert answer.headers["www-authenticate"].startswith("Bearer")
            for key in keys:
                for scheme in ("Bearer", "bearer", "BEARER"):
                    given = {"authorization": f"{scheme} {key}".encode().decode("latin-1")}
                    answer = keyed.ask(method, path, {} if method == "POST" else None, given)
                    assert answer.status != 401


@pytest.mark.parametrize(
    "host", ["evil.example", "evil.example:8000", "", "127.0.0.1.evil.example", "10.0.0.1"]
)
def test_names_that_are_not_this_machine_are_refused(server: Live, host: str) -> None:
    for path in ("/v1/models", "/health"):
        check(server, server.ask("GET", path, headers={"host": host}), 403, "host_not_allowed", None)


@pytest.mark.parametrize(
    "host", ["localhost", "LOCALHOST:9", "127.0.0.1:8000", "[::1]:8000", "[::1]", "127.9.9.9"]
)
def test_names_of_this_machine_are_taken(server: Live, host: str) -> None:
    assert server.ask("GET", "/v1/models", headers={"host": host}).status == 200


def test_a_server_bound_to_more_than_loopback_takes_any_name() -> None:
    with live(host="0.0.0.0") as open_to_all:
        assert open_to_all.ask("GET", "/v1/models", headers={"host": "gpu.example"}).status == 200


def test_a_request_that_the_engine_fails_on_is_not_to_be_repeated(server: Live) -> None:
    server.engine.fault = lambda prompt, count: (
        "logits are not finite" if prompt == [5, 6] and count == 2 else ""
    )
    try:
        answer = server.complete([5, 6])
        check(server, answer, 500, "internal_error", None)
        assert answer.headers["x-should-retry"] == "false"
        assert "not finite" in answer.error["message"]
        streamed = server.complete([5, 6], stream=True)
        assert streamed.status == 200
        assert streamed.events[-2]["error"]["code"] == "internal_error"
        assert streamed.events[-1] == "[DONE]"
        assert server.complete([5, 7]).status == 200
    finally:
        server.engine.fault = lambda prompt, count: ""
    assert server.nothing_leaks()


def test_a_fault_of_the_server_itself_is_one_requests_500(
    server: Live, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(ids: Any) -> bool:
        raise ZeroDivisionError("secret detail")

    monkeypatch.setattr(server.service.tokenizer, "starts_in_reasoning", broken)
    answer = server.chat()
    check(server, answer, 500, "internal_error", None)
    assert answer.headers["x-should-retry"] == "false"
    assert "secret" not in answer.error["message"]
    assert server.complete().status == 200


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=6,
)
NAMES = sorted(
    {
        "messages",
        "prompt",
        "tokens",
        "model",
        "stop",
        "n",
        "seed",
        "stream",
        "stream_options",
        "logit_bias",
        "logprobs",
        "top_logprobs",
        "max_tokens",
        "min_tokens",
        "temperature",
        "top_k",
        "chat_template_kwargs",
        "cache_salt",
        "echo",
        "stop_token_ids",
        "user",
    }
)


@settings(deadline=None, max_examples=150, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    path=st.sampled_from(ALL),
    fields=st.dictionaries(st.sampled_from(NAMES), JSON, max_size=4),
    cut=st.booleans(),
)
def test_no_body_whatever_gets_a_server_error(
    server: Live, path: str, fields: dict[str, Any], cut: bool
) -> None:
    answer = server.post(path, fields if cut else {**GOOD[path], **fields})
    assert answer.status in (200, 400, 404), answer.body
    if answer.status != 200:
        assert set(answer.error) == ENVELOPE
    assert server.nothing_leaks()


def test_many_different_refused_schemas_leave_nothing_behind(server: Live) -> None:
    for number in range(100):
        schema = {"type": "json_schema", "json_schema": {"name": f"s{number}", "schema": {"const": number}}}
        assert server.post(CHAT, {**GOOD[CHAT], "response_format": schema}).status == 400
    assert server.engine.submitted == []
