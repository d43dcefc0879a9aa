"""One HTTP exchange against a server that writes exactly the given bytes."""

import asyncio
import shutil
import socket
import ssl
import subprocess
from collections.abc import Awaitable, Callable
from itertools import pairwise
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fullbore.bench.exchange import Answered, NoConnectionError, Peer, Silence
from fullbore.bench.running import run

CHUNKED = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"
MEASURED = b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\n"
UNMEASURED = b"HTTP/1.1 200 OK\r\n\r\n"

Serve = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


def exchange(pieces: list[bytes], hang: bool = False, until: bytes = b"\0") -> tuple[Answered, bytes, bytes]:
    """What came of it, the body as it was taken, and the request that the server got."""
    taken, asked = bytearray(), bytearray()

    def take(piece: bytes, now_s: float) -> bool:
        taken.extend(piece)
        return until in taken

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        asked.extend(await reader.readuntil(b"\r\n\r\n"))
        asked.extend(await reader.readexactly(4))
        for piece in pieces:
            writer.write(piece)
            await writer.drain()
            await asyncio.sleep(0)
        if hang:
            await reader.read()
        writer.close()

    async def go() -> Answered:
        async with await asyncio.start_server(serve, "127.0.0.1", 0) as server:
            port = server.sockets[0].getsockname()[1]
            peer = Peer(f"http://localhost:{port}/base")
            return await peer.post("/v1/x", {"A": "b"}, b"body", take, 0.2)

    return asyncio.run(go()), bytes(taken), bytes(asked)


def test_the_request_is_as_asked() -> None:
    _, _, asked = exchange([MEASURED, b"hello"])
    first, *headers, _, body = asked.split(b"\r\n")
    assert first == b"POST /base/v1/x HTTP/1.1"
    assert {b"A: b", b"Content-Length: 4", b"Connection: close"} <= set(headers)
    assert any(header.startswith(b"Host: localhost:") for header in headers)
    assert body == b"body"


@settings(max_examples=25)
@given(cuts=st.lists(st.integers(1, 90), max_size=6))
def test_bodies_come_whole_however_they_are_cut(cuts: list[int]) -> None:
    for stream in (
        CHUNKED + b"2\r\nhe\r\n3\r\nllo\r\n0\r\n\r\n",
        MEASURED + b"hello",
        UNMEASURED + b"hello",
        b"HTTP/1.1 100 Continue\r\n\r\n" + MEASURED + b"hello",
    ):
        edges = sorted({0, *(cut % len(stream) for cut in cuts), len(stream)})
        done, taken, _ = exchange([stream[a:b] for a, b in pairwise(edges)])
        assert (done.status, taken) == (200, b"hello")


def test_what_follows_the_end_is_not_waited_for() -> None:
    done, taken, _ = exchange([CHUNKED, b"3\r\nEND\r\n"], hang=True, until=b"END")
    assert (done.status, taken) == (200, b"END")


def test_a_refusal_is_kept_and_not_taken() -> None:
    done, taken, _ = exchange([b"HTTP/1.1 503 Busy\r\nContent-Length: 5\r\n\r\nlater"])
    assert (done.status, done.refusal, taken) == (503, b"later", b"")


@pytest.mark.parametrize(
    ("pieces", "words"),
    [
        ([CHUNKED, b"5\r\nhe"], "in the middle of the answer"),
        ([MEASURED, b"he"], "in the middle of the answer"),
        ([], "before the answer"),
    ],
)
def test_an_answer_that_breaks_off(pieces: list[bytes], words: str) -> None:
    with pytest.raises(ConnectionError, match=words):
        exchange(pieces)


def test_silence() -> None:
    with pytest.raises(Silence, match=r"nothing came for 0\.2 s"):
        exchange([CHUNKED], hang=True)


@pytest.mark.parametrize(
    "stream", [b"SSH-2.0-OpenSSH_9.6\r\n", b"HTTP/1.1 200 OK\r\nContent-Length: x\r\n\r\n"]
)
def test_no_http(stream: bytes) -> None:
    with pytest.raises(ValueError, match="does not speak HTTP"):
        exchange([stream])


def post(peer: Peer) -> Answered:
    return asyncio.run(peer.post("/", {}, b"", lambda piece, now_s: False, 1.0))


def test_nobody_there() -> None:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        with pytest.raises(NoConnectionError, match="refused"):
            post(Peer(f"http://127.0.0.1:{probe.getsockname()[1]}"))
    with pytest.raises(NoConnectionError):
        post(Peer("http://no-such-host.invalid"))


@pytest.mark.skipif(shutil.which("openssl") is None, reason="openssl makes the certificate")
def test_https_is_trusted_by_its_certificate_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    key, certificate = str(tmp_path / "key"), str(tmp_path / "certificate")
    subject = ("-subj", "/CN=localhost", "-addext", "subjectAltName=DNS:localhost")
    make = ("openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-keyout", key, "-out", certificate)
    subprocess.run([*make, *subject], check=True, capture_output=True)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate, key)

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(MEASURED + b"hello")
        await writer.drain()
        writer.close()

    async def go() -> tuple[Answered, str]:
        async with await asyncio.start_server(serve, "127.0.0.1", 0, ssl=context) as server:
            url = f"https://localhost:{server.sockets[0].getsockname()[1]}"
            with pytest.raises(NoConnectionError, match="self-signed certificate"):
                await Peer(url).post("/", {}, b"", lambda piece, now_s: False, 5.0)
            monkeypatch.setenv("SSL_CERT_FILE", certificate)
            taken: list[bytes] = []
            done = await Peer(url).post("/", {}, b"", lambda piece, now_s: bool(taken.append(piece)), 5.0)
            return done, b"".join(taken).decode()

    done, body = run(go())
    assert (done.status, body) == (200, "hello")
