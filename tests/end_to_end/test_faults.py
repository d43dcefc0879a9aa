"""The served engine is killed while it answers: everybody hears of it, and it comes back by itself."""

import os
import signal
import time
import urllib.error
import urllib.request
from pathlib import Path

import pytest
from openai import APIError, OpenAI

from conftest import READY_WITHIN_S, answers, serving


def engine_of(log: Path) -> int:
    """Process id of the engine whose server writes ``log``: its stdout is that file, its command says so."""
    for folder in Path("/proc").iterdir():
        if folder.name.isdecimal():
            try:
                command = (folder / "cmdline").read_bytes()
                output = os.readlink(folder / "fd" / "1")
            except OSError:
                continue  # ended meanwhile, or another user's
            if b"fullbore.engine.process" in command and output == str(log):
                return int(folder.name)
    pytest.fail("there is no engine process")


def status(url: str) -> int:
    try:
        with urllib.request.urlopen(url, timeout=5) as response:
            return int(response.status)
    except urllib.error.HTTPError as error:
        return error.code


@pytest.mark.skipif(not Path("/proc/self/cmdline").exists(), reason="finds the engine in Linux's /proc")
def test_an_engine_that_is_killed_comes_back(tmp_path: Path) -> None:
    log = tmp_path / "log"
    with serving(log) as url:
        client = OpenAI(base_url=f"{url}/v1", api_key="none", max_retries=0, timeout=READY_WITHIN_S)
        words = [{"role": "user", "content": "What is 12 + 30?"}]
        before = client.chat.completions.create(model="demo", messages=words, temperature=0)  # type: ignore[arg-type]
        stream = client.completions.create(
            model="demo", prompt="1", max_tokens=5000, stream=True, extra_body={"ignore_eos": True}
        )
        next(iter(stream))
        os.kill(engine_of(log), signal.SIGKILL)
        with pytest.raises(APIError, match="engine died"):
            for _ in stream:
                pass
        assert status(f"{url}/health") == 503
        deadline = time.monotonic() + READY_WITHIN_S
        while not answers(f"{url}/health"):
            assert time.monotonic() < deadline, log.read_text()
            time.sleep(0.3)
        after = client.chat.completions.create(model="demo", messages=words, temperature=0)  # type: ignore[arg-type]
        assert after.choices[0].message == before.choices[0].message
