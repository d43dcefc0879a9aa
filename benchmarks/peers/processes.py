"""Processes of other people's programs: started in a group of their own, watched, and always ended."""

import os
import signal
import socket
import subprocess
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from benchmarks.peers.machine import Member, family
from benchmarks.peers.peer import Command
from fullbore.errors import FullboreError

POLL_S = 0.25
GRACE_S = 10.0  # to end by itself after SIGTERM
KILLED_S = 5.0  # until the system has taken away what was killed
DIRECT = urllib.request.build_opener(urllib.request.ProxyHandler({}))  # whatever proxy the caller uses


class ServerError(FullboreError):
    """A server that died, or never became ready."""


class Server:
    """One started server: its address, its process, its output."""

    def __init__(self, process: "subprocess.Popen[bytes]", url: str, log: Path) -> None:
        self.process, self.url, self.log = process, url, log

    @property
    def ended(self) -> bool:
        return self.process.poll() is not None

    def ends_within(self, seconds: float) -> bool:
        """A server that is killed breaks its connections a moment before it is gone."""
        try:
            self.process.wait(seconds)
        except subprocess.TimeoutExpired:
            return False
        return True

    def wait_ready(self, path: str, timeout_s: float) -> float:
        """Seconds until ``path`` answers 200. Raises ServerError if the process ends, or at ``timeout_s``."""
        begin_s = time.monotonic()
        while not _answers(self.url + path):
            waited_s = time.monotonic() - begin_s
            if self.ended:
                raise ServerError(f"the server ended with {self.process.returncode} before it was ready")
            if waited_s > timeout_s:
                raise ServerError(f"{self.url}{path} did not answer 200 within {timeout_s:g} s")
            time.sleep(POLL_S)
        return time.monotonic() - begin_s


@contextmanager
def running(command: Command, port: int, log: Path) -> Iterator[Server]:
    """The server of ``command``, until the block is left however that happens."""
    log.parent.mkdir(parents=True, exist_ok=True)
    with log.open("ab") as output:
        try:
            process = subprocess.Popen(
                command.argv,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                env={**os.environ, **command.env},
                start_new_session=True,
            )
        except OSError as error:
            raise ServerError(f"{command.argv[0]} cannot be run: {error.strerror}") from error
        try:
            yield Server(process, f"http://127.0.0.1:{port}", log)
        finally:
            end_group(process)


def end_group(process: "subprocess.Popen[bytes]", grace_s: float = GRACE_S) -> None:
    """End ``process`` and all it started: asked first, then killed, those that left its group as well."""
    members = family(process.pid)
    try:
        _signal(process.pid, signal.SIGTERM)
        deadline_s = time.monotonic() + grace_s
        while time.monotonic() < deadline_s and (process.poll() is None or _alive(members)):
            time.sleep(0.05)
    finally:  # a second Ctrl-C only ends the waiting
        _signal(process.pid, signal.SIGKILL)
        for member in _alive(members):
            with suppress(ProcessLookupError):
                os.kill(member.pid, signal.SIGKILL)
        process.wait()
        deadline_s = time.monotonic() + KILLED_S
        while time.monotonic() < deadline_s and _alive(members):
            time.sleep(0.01)


def free_port() -> int:
    """A port of 127.0.0.1 that nobody listens on right now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _signal(group: int, number: int) -> None:
    with suppress(ProcessLookupError):
        os.killpg(group, number)


def _alive(members: frozenset[Member]) -> frozenset[Member]:
    """Those of ``members`` that still run: a process id that was given to another has another start."""
    return frozenset(member for member in members if Member.of(member.pid) == member)


def _answers(url: str) -> bool:
    try:
        with DIRECT.open(url, timeout=5) as response:
            return bool(response.status == 200)
    except (OSError, ValueError):
        return False
