"""The emulated rank as a server: how long until it is ready, and scenarios through its scheduler.

All by the commands that a user has: ``fullbore serve --emulate-rank`` and ``fullbore bench``.
"""

import contextlib
import json
import os
import re
import subprocess
import sys
import tempfile
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.gpu.rank import SERVER
from fullbore.errors import FullboreError

FULLBORE = (sys.executable, "-m", "fullbore")
PATIENCE_S = 300.0  # for a server to be ready
# The scenario, requests in flight, requests in all: a round of each is what the time allows.
LOADS = (("dialog", 158, 158), ("code", 140, 140))


@dataclass(frozen=True)
class Served:
    """``ready_s``: from the start of the process. ``figures``: of the scenarios, as ``bench`` writes them."""

    layout: str
    cold_ready_s: float
    warm_ready_s: float
    figures: dict[str, Any]


def able() -> bool:
    """Whether this fullbore can emulate a rank."""
    done = subprocess.run([*FULLBORE, "serve", "--help"], capture_output=True, text=True, check=False)
    return "--emulate-rank" in done.stdout


def served(
    layout: str, until: float, tell: Callable[[str], None], loads: Sequence[tuple[str, int, int]] = LOADS
) -> Served:
    """``until``: seconds of time.monotonic after which no load is begun. FullboreError where it fails."""
    with tempfile.TemporaryDirectory() as folder:
        caches = {"TRITON_CACHE_DIR": f"{folder}/triton", "XDG_CACHE_HOME": f"{folder}/cache"}
        with _server(layout, caches) as (_, cold):
            tell(f"{layout}: ready after {cold:.1f} s with empty caches")
        with _server(layout, caches) as (url, warm):
            tell(f"{layout}: ready after {warm:.1f} s with them filled")
            figures = {}
            for scenario, concurrency, requests in loads:
                if time.monotonic() > until:
                    tell(f"out of time: {scenario} not measured")
                    break
                figures[scenario] = _bench(url, scenario, concurrency, requests, Path(folder))
    return Served(layout, cold, warm, figures)


@contextlib.contextmanager
def _server(layout: str, caches: dict[str, str]) -> Iterator[tuple[str, float]]:
    """Its URL, and the seconds until it said that it is ready."""
    words = ["serve", "deepseek-v3", "--random-weights", "--emulate-rank", "0/8", "--layout", layout]
    words += ["--links", SERVER, "--port", "0", "--tune", "off", "--max-num-seqs", "256"]
    begin = time.monotonic()
    process = subprocess.Popen(
        [*FULLBORE, *words], env={**os.environ, **caches}, text=True, stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
    )  # fmt: skip
    try:
        yield _url(process), time.monotonic() - begin
    finally:
        process.terminate()
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(30)
        process.kill()
        process.wait()


def _url(process: "subprocess.Popen[str]") -> str:
    """What the server prints when it is ready."""
    lines: list[str] = []
    found = threading.Event()
    url: list[str] = []

    def read() -> None:
        for line in process.stdout or ():  # to the end, so that the pipe never fills
            lines.append(line)
            seen = re.search(r"(http://[\w.:]+)(/v1)?", line)
            if seen and not url:
                url.append(seen[1])
                found.set()
        found.set()

    threading.Thread(target=read, daemon=True).start()
    if not found.wait(PATIENCE_S) or not url:
        raise FullboreError(
            f"the server was not ready within {PATIENCE_S:g} s: {''.join(lines[-20:])[-2000:]}"
        )
    _until_ready(url[0], process)
    return url[0]


def _until_ready(url: str, process: "subprocess.Popen[str]") -> None:
    """By its /ready; FullboreError where it never is."""
    end = time.monotonic() + PATIENCE_S
    while time.monotonic() < end and process.poll() is None:
        with (
            contextlib.suppress(urllib.error.URLError, OSError),
            urllib.request.urlopen(f"{url}/ready", timeout=5),
        ):
            return
        time.sleep(0.05)
    raise FullboreError(f"{url} was never ready (exit code {process.poll()})")


def _bench(url: str, scenario: str, concurrency: int, requests: int, folder: Path) -> Any:
    path = folder / f"{scenario}.json"
    words = [
        "bench",
        url,
        "--scenario",
        scenario,
        "--concurrency",
        str(concurrency),
        "--requests",
        str(requests),
    ]
    done = subprocess.run(
        [*FULLBORE, *words, "--json", str(path)], capture_output=True, text=True, check=False
    )
    if done.returncode:
        raise FullboreError(f"fullbore bench failed: {done.stderr.strip()[-500:]}")
    return json.loads(path.read_text())["results"][0]["figures"]
