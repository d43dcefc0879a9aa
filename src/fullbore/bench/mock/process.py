"""The mock server in a process of its own, for as long as a context lasts."""

import json
import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, fields
from typing import Any

from fullbore.bench.mock.timing import Timing
from fullbore.errors import FullboreError

READY = "mock server ready at "
LAST_WORDS_S = 30.0


@dataclass(frozen=True)
class RunningMock:
    """Where it listens, and what measuring it must show."""

    url: str
    timing: Timing

    def info(self) -> dict[str, Any]:
        """``/server_info``: what it served so far, and how late its chunks were (``late_ms``)."""
        return dict(self._get("/server_info"))

    def records(self) -> list[dict[str, Any]]:
        """``/records``: when requests came and chunks were written, on the clock of ``time.perf_counter``."""
        return list(self._get("/records"))

    def _get(self, path: str) -> Any:
        with urllib.request.urlopen(self.url + path, timeout=LAST_WORDS_S) as response:
            return json.load(response)


@contextmanager
def running_mock(timing: Timing, *flags: str) -> Iterator[RunningMock]:
    """Run it on a free port. ``flags``: more of ``fullbore bench mock``, such as ``--remember=9``."""
    command = [sys.executable, "-m", "fullbore", "bench", "mock", "--port=0", *_flags(timing), *flags]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stdin=subprocess.DEVNULL, text=True) as process:
        if process.stdout is None:
            raise FullboreError("the mock server has no output to read its address from")
        try:
            line = process.stdout.readline()
            if not line.startswith(READY):
                raise FullboreError(
                    f"the mock server did not start; it said {line!r} (look at its errors above)"
                )
            yield RunningMock(line.removeprefix(READY).strip(), timing)
        finally:
            process.terminate()
            try:
                process.wait(LAST_WORDS_S)
            except subprocess.TimeoutExpired:
                process.kill()


def _flags(timing: Timing) -> Iterator[str]:
    """The flags that make this timing, leaving out those of the defaults."""
    default = Timing()
    for field in fields(Timing):
        value = getattr(timing, field.name)
        if value != getattr(default, field.name):
            name, unit = field.name, ""
            if name.endswith("_s") and value:
                name, unit = name.removesuffix("_s"), "s"
            yield f"--{name.removesuffix('_s').replace('_', '-')}={value!r}{unit}"
