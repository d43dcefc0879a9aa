"""The server as a process: signals, exit codes, a port in use, a full disk. The engine is scripted."""

import asyncio
import http.client
import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO

import aiohttp
import pytest
from live_server import HELLO

PROGRAM = Path(__file__).with_name("fake_serve.py")
SOURCE = Path(__file__).parents[2] / "src"
STREAMS = 50


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port: int = probe.getsockname()[1]
    return port


def get(port: int, path: str) -> tuple[int, Any]:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=10)
    try:
        connection.request("GET", path)
        response = connection.getresponse()
        return response.status, json.loads(response.read())
    finally:
        connection.close()


def wait_ready(
    port: int, process: "subprocess.Popen[bytes]", path: str = "/ready", seconds: float = 60
) -> None:
    deadline = time.monotonic() + seconds
    while process.poll() is None and time.monotonic() < deadline:
        try:
            if get(port, path)[0] == 200:
                return
        except OSError:
            pass  # it does not listen yet
        time.sleep(0.02)
    raise AssertionError(f"the server did not become ready: {process.poll()}")


@contextmanager
def process(
    *arguments: object, out: int | BinaryIO = subprocess.PIPE, ready: str = "/ready"
) -> Iterator[tuple["subprocess.Popen[bytes]", int]]:
    port = free_port()
    command = [sys.executable, str(PROGRAM), str(port), *map(str, arguments)]
    environment = {**os.environ, "PYTHONPATH": str(SOURCE)}
    running = subprocess.Popen(command, stdout=out, stderr=out, env=environment)
    try:
        if ready:
            wait_ready(port, running, ready)
        yield running, port
    finally:
        if running.poll() is None:
            running.kill()
        running.communicate()


async def stream(session: aiohttp.ClientSession, port: int, begun: asyncio.Semaphore) -> str:
    """All that one streamed answer says."""
    body = {"prompt": "hi", "stream": True, "max_tokens": 100}
    async with session.post(f"http://127.0.0.1:{port}/v1/completions", json=body) as response:
        assert response.status == 200
        text = b""
        async for line in response.content:
            if not text:
                begun.release()
            text += line
    return text.decode()


async def streams_over(port: int, after_begun: Any) -> list[str]:
    """Fifty streams; once all of them have begun, ``after_begun`` is called."""
    begun = asyncio.Semaphore(0)
    async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0)) as session:
        running = [asyncio.create_task(stream(session, port, begun)) for _ in range(STREAMS)]
        for _ in range(STREAMS):
            await begun.acquire()
        await after_begun(session)
        return await asyncio.gather(*running)


def said(text: str) -> str:
    events = [json.loads(line[6:]) for line in text.split("\n\n") if line.startswith("data: {")]
    return "".join(event["choices"][0]["text"] for event in events if "choices" in event)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_the_first_signal_drains(number: signal.Signals) -> None:
    with process(0.4, 60) as (server, port):

        async def stop(session: aiohttp.ClientSession) -> None:
            server.send_signal(number)
            while True:  # until the signal was taken
                async with session.get(f"http://127.0.0.1:{port}/ready") as ready:
                    if ready.status == 503:
                        break
            async with session.post(
                f"http://127.0.0.1:{port}/v1/completions", json={"prompt": "x"}
            ) as refused:
                assert refused.status == 503
                assert refused.headers["retry-after"] == "5"
                assert (await refused.json())["error"]["code"] == "shutting_down"
            assert server.poll() is None

        answers = asyncio.run(streams_over(port, stop))
        assert [said(answer) for answer in answers] == [HELLO] * STREAMS
        assert all(answer.endswith("data: [DONE]\n\n") for answer in answers)
        assert server.wait(30) == 0


def test_the_second_signal_aborts_with_error_events() -> None:
    with process(5.0, 600) as (server, port):

        async def stop_at_once(session: aiohttp.ClientSession) -> None:
            server.send_signal(signal.SIGTERM)
            while get(port, "/ready")[0] == 200:
                await asyncio.sleep(0.01)
            server.send_signal(signal.SIGTERM)

        answers = asyncio.run(streams_over(port, stop_at_once))
        for answer in answers:
            assert '"code":"aborted"' in answer
            assert answer.endswith("data: [DONE]\n\n")
        assert server.wait(30) == 128 + signal.SIGTERM


def test_the_shutdown_timeout_ends_the_drain() -> None:
    with process(5.0, 0.3) as (server, port):

        async def stop(session: aiohttp.ClientSession) -> None:
            server.send_signal(signal.SIGTERM)

        answers = asyncio.run(streams_over(port, stop))
        assert all('"code":"aborted"' in answer for answer in answers)
        assert server.wait(30) == 0


def test_an_idle_server_stops_although_clients_keep_their_connections() -> None:
    with process(0, 60) as (server, port):
        idle = http.client.HTTPConnection("127.0.0.1", port, timeout=10)
        idle.request("GET", "/health")
        idle.getresponse().read()
        server.send_signal(signal.SIGTERM)
        assert server.wait(30) == 0
        idle.close()


def test_a_signal_while_loading_stops_it() -> None:
    with process(0, 60, 600, ready="/health") as (server, port):
        assert get(port, "/ready") == (503, {"status": "loading", "loaded": 0.1})
        server.send_signal(signal.SIGTERM)
        assert server.wait(30) == 0


def test_an_engine_that_cannot_start_ends_the_server_with_its_words() -> None:
    with process(0, 60, -1, ready="") as (server, _):
        _, told = server.communicate(timeout=60)
        assert server.returncode == 1
        assert b"fullbore: error: model.safetensors is truncated" in told
        assert b"Traceback" not in told


def test_a_port_in_use_is_a_clear_error() -> None:
    with process(0, 60) as (first, port):
        environment = {**os.environ, "PYTHONPATH": str(SOURCE)}
        command = [sys.executable, str(PROGRAM), str(port), "0", "60"]
        second = subprocess.run(command, capture_output=True, env=environment, timeout=60, check=False)
        assert second.returncode == 1
        assert f"port {port} on 127.0.0.1 is in use".encode() in second.stderr
        assert b"Traceback" not in second.stderr
        assert get(port, "/ready")[0] == 200
        assert first.poll() is None


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
def test_a_full_disk_under_the_log_stops_nothing() -> None:
    with open("/dev/full", "wb") as full, process(0, 60, out=full) as (server, port):
        for _ in range(3):
            assert get(port, "/health")[0] == 200
        server.send_signal(signal.SIGTERM)
        assert server.wait(30) == 0


def test_the_terminal_shows_an_example_that_works() -> None:
    with process(0, 60) as (server, port):
        server.send_signal(signal.SIGTERM)
        _, told = server.communicate(timeout=30)
        assert f"http://127.0.0.1:{port}/v1".encode() in told
        assert b"curl " in told
