"""The real thing: ``fullbore serve demo`` in its own process, on a free port."""

import os
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest

READY_WITHIN_S = 240


@contextmanager
def serving(log: Path, *flags: str, model: str = "demo") -> Iterator[str]:
    """The base URL of a fresh server of ``model``; it is drained at the end, and that must work."""
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port = probe.getsockname()[1]
    url = f"http://127.0.0.1:{port}"
    command = [sys.executable, "-m", "fullbore", "serve", model, "--tune", "off"]
    command += ["--port", str(port), *flags]
    with log.open("w") as output:
        process = subprocess.Popen(command, stdout=output, stderr=subprocess.STDOUT, env={**os.environ})
        try:
            deadline = time.monotonic() + READY_WITHIN_S
            while not answers(f"{url}/ready"):
                if process.poll() is not None or time.monotonic() > deadline:
                    pytest.fail(f"the server did not become ready:\n{log.read_text()}")
                time.sleep(0.3)
            yield url
            process.send_signal(signal.SIGTERM)
            assert process.wait(60) == 0, log.read_text()
        finally:
            with suppress(ProcessLookupError):
                process.kill()
            process.wait()


def answers(url: str) -> bool:
    try:
        with urllib.request.urlopen(url, timeout=2) as response:
            return bool(response.status == 200)
    except (urllib.error.URLError, OSError):
        return False


@pytest.fixture(scope="session")
def demo_url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with serving(tmp_path_factory.mktemp("server") / "log") as url:
        yield url
