"""One engine process as its parent holds it: started, greeted, waited for, ended. No torch."""

import asyncio
import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence

import msgspec

from fullbore import __version__
from fullbore.engine.messages import PROTOCOL, Failed, Hello, Progress, Ready, Report
from fullbore.engine.options import EngineOptions
from fullbore.engine.wire import ClientWire, RunDir
from fullbore.errors import FullboreError

PROGRAM = (sys.executable, "-P", "-m", "fullbore.engine.process")
# torch's threads spin while they wait for each other. Where another process has taken a core, the one that
# spins keeps the one it waits for from running: on two cores, one busy, a step took 1144 ms instead of 13.
QUIET_THREADS = {"OMP_WAIT_POLICY": "passive"}
TICK_S = 0.2  # how often the process is looked at; its death is noticed within this


class EngineStartError(FullboreError):
    """The engine process could not start; the message is the one it gave, or how it ended."""


class EngineProcess:
    """Owns one process, its sockets and their directory; ``destroy`` gives all of them back."""

    def __init__(self, options: EngineOptions, program: Sequence[str] = PROGRAM) -> None:
        with contextlib.ExitStack() as undo:
            self._run_dir = RunDir()
            undo.callback(self._run_dir.close)
            self.wire = ClientWire(self._run_dir.path)
            undo.callback(self.wire.close)
            launch = {
                "run_dir": str(self._run_dir.path),
                "parent": os.getpid(),
                "options": msgspec.to_builtins(options),
            }
            self._process = subprocess.Popen(
                [*program, msgspec.json.encode(launch).decode()],
                stdin=subprocess.DEVNULL,
                env={**QUIET_THREADS, **os.environ},
            )
            undo.pop_all()

    @property
    def pid(self) -> int:
        return self._process.pid

    @property
    def ended(self) -> bool:
        """The process is gone (and reaped)."""
        return self._process.poll() is not None

    @property
    def ending(self) -> str:
        """How it ended, for people."""
        code = self._process.poll()
        if code is None:
            return "is running"
        if code >= 0:
            return f"ended with exit code {code}"
        try:
            name = signal.Signals(-code).name
        except ValueError:
            name = f"signal {-code}"
        return f"was ended by {name}" + (" (out of memory?)" if name == "SIGKILL" else "")

    async def become_ready(self, on_progress: Callable[[int, int], None] | None) -> Ready:
        """Greet and wait until the model is loaded; EngineStartError when that does not come about."""
        while True:
            ended = self.ended  # before the last look at its reports, so that none is missed
            for report in await self.wire.receive(TICK_S):
                ready = self._take(report, on_progress)
                if ready is not None:
                    return ready
            if ended:
                raise EngineStartError(f"the engine process {self.ending} while it was starting")

    def _take(self, report: Report, on_progress: Callable[[int, int], None] | None) -> Ready | None:
        if isinstance(report, Ready):
            return report
        if isinstance(report, Failed):
            raise EngineStartError(report.message)
        if isinstance(report, Hello):
            # The engine of another version hears ours and says so too; whoever is first is heard.
            self.wire.send(Hello(PROTOCOL, __version__))
            if report.protocol != PROTOCOL:
                raise EngineStartError(
                    f"the engine process speaks protocol {report.protocol} (fullbore {report.version}), this "
                    f"server {PROTOCOL} (fullbore {__version__}): start both from one installation"
                )
        elif isinstance(report, Progress) and on_progress is not None:
            on_progress(report.done, report.total)
        return None

    def kill(self) -> None:
        """SIGKILL, which a stopped or hung process obeys too."""
        if not self.ended:
            self._process.kill()

    async def destroy(self) -> None:
        """Kill it if need be, reap it, close the sockets, remove the directory. Again: nothing."""
        self.kill()
        try:
            while not self.ended:
                await asyncio.sleep(0.02)
        finally:
            self.wire.close()
            self._run_dir.close()


class Pulse:
    """Notices an engine that is silent: counts looks, not seconds, so that the time during which this process
    itself was stopped (or its clock jumped) is not held against the engine.
    """

    def __init__(self, patience_s: float) -> None:
        self._patience = max(1, round(patience_s / TICK_S))
        self._silent = 0
        self._looked = time.monotonic()

    def heard(self) -> None:
        self._silent = 0

    def is_lost(self) -> bool:
        """Call at every look that brought no report."""
        now = time.monotonic()
        if now - self._looked >= TICK_S / 2:  # looks in quick succession are one
            self._silent += 1
            self._looked = now
        return self._silent > self._patience
