"""The sockets between the HTTP process and the engine process.

Both directions are ZMQ PUSH -> PULL over ``ipc://`` in a run directory that only this user can enter and that
lives as long as one engine process. Messages are msgpack of the structs in ``messages``, decoded by type:
whatever does not decode is dropped and counted.
"""

import contextlib
import fcntl
import os
import shutil
import tempfile
import time
from pathlib import Path
from typing import TypeVar

import msgspec
import zmq
import zmq.asyncio

from fullbore.engine.messages import Command, Report
from fullbore.errors import CapacityError

_PREFIX = "fullbore-engine-"
_LONGEST_PATH = 100  # a Unix socket's path has 107 bytes
_LARGEST_MESSAGE = 64 << 20  # bytes; the longest prompt is well below
_QUEUED_REPORTS = 4096  # beyond these the engine waits for the HTTP process to read
_QUEUED_COMMANDS = 65536
_STALE_AFTER_S = 60.0
_BATCH = 1024  # messages taken at once, so that neither side starves its other work

T = TypeVar("T")


class RunDir:
    """A fresh directory of mode 0700 for one engine's sockets; ``close`` removes it.

    The lock on it says that it is in use; directories that a killed process left are removed by the next one.
    """

    def __init__(self) -> None:
        root = _root()
        _sweep(root)
        self.path = Path(tempfile.mkdtemp(prefix=_PREFIX, dir=root))
        if len(os.fsencode(self.path)) + len("/commands") > _LONGEST_PATH:
            os.rmdir(self.path)
            raise CapacityError(
                f"the path {self.path} is too long for a socket (at most {_LONGEST_PATH} bytes with the "
                "socket's name): set TMPDIR to a shorter directory"
            )
        self._lock = os.open(self.path, os.O_RDONLY | os.O_CLOEXEC)
        fcntl.flock(self._lock, fcntl.LOCK_SH)

    def close(self) -> None:
        """Remove the directory; calling it again does nothing."""
        if self._lock >= 0:
            shutil.rmtree(self.path, ignore_errors=True)
            os.close(self._lock)
            self._lock = -1


def _root() -> Path:
    """Where run directories go: the user's run-time directory, else the temporary one."""
    run_time = os.environ.get("XDG_RUNTIME_DIR", "")
    if run_time and os.access(run_time, os.W_OK | os.X_OK):
        return Path(run_time)
    return Path(tempfile.gettempdir())


def _sweep(root: Path) -> None:
    """Remove run directories of this user that nobody holds; the age guards one that is just being made."""
    for path in root.glob(f"{_PREFIX}*"):
        with contextlib.suppress(OSError):
            status = path.lstat()
            if status.st_uid != os.getuid() or time.time() - status.st_mtime < _STALE_AFTER_S:
                continue
            handle = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
            try:
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
                if any((path / name).is_socket() for name in ("commands", "reports")):
                    shutil.rmtree(path, ignore_errors=True)
            finally:
                os.close(handle)


class Decoder:
    """Bytes to messages of one union of types; ``dropped`` counts what was none."""

    def __init__(self) -> None:
        self.dropped = 0
        self._commands: msgspec.msgpack.Decoder[Command] = msgspec.msgpack.Decoder(Command)
        self._reports: msgspec.msgpack.Decoder[Report] = msgspec.msgpack.Decoder(Report)

    def command(self, frames: list[bytes]) -> Command | None:
        return self._decode(self._commands, frames)

    def report(self, frames: list[bytes]) -> Report | None:
        return self._decode(self._reports, frames)

    def _decode(self, decoder: msgspec.msgpack.Decoder[T], frames: list[bytes]) -> T | None:
        if len(frames) == 1:
            # RecursionError: msgpack nested thousands deep in a field that is skipped.
            with contextlib.suppress(msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
                return decoder.decode(frames[0])
        self.dropped += 1
        return None


class EngineWire:
    """The engine's end; blocking, for one thread."""

    def __init__(self, run_dir: Path) -> None:
        self._context = zmq.Context()
        self._commands = _bound(self._context.socket(zmq.PULL), run_dir / "commands", _QUEUED_COMMANDS)
        self._reports = _connected(self._context.socket(zmq.PUSH), run_dir / "reports", _QUEUED_REPORTS)
        self._encoder = msgspec.msgpack.Encoder()
        self._decoder = Decoder()

    @property
    def dropped(self) -> int:
        """Messages on the command socket that were no command."""
        return self._decoder.dropped

    def receive(self, timeout_s: float) -> list[Command]:
        """The commands that have arrived; waits up to ``timeout_s`` for the first one."""
        if not self._commands.poll(int(timeout_s * 1000)):
            return []
        commands: list[Command] = []
        with contextlib.suppress(zmq.Again):
            for _ in range(_BATCH):
                command = self._decoder.command(self._commands.recv_multipart(zmq.NOBLOCK))
                if command is not None:
                    commands.append(command)
        return commands

    def send(self, report: Report) -> None:
        """Waits while the HTTP process has thousands of reports unread: nothing is lost."""
        self._reports.send(self._encoder.encode(report))

    def close(self, linger_s: float = 1.0) -> None:
        """Close both sockets, giving unsent reports ``linger_s`` to leave."""
        self._commands.close(linger=0)
        self._reports.close(linger=int(linger_s * 1000))
        self._context.term()


class ClientWire:
    """The HTTP process's end, for one event loop."""

    def __init__(self, run_dir: Path) -> None:
        self._context = zmq.Context()
        self._reports = _bound(
            zmq.asyncio.Socket(self._context, zmq.PULL), run_dir / "reports", _QUEUED_REPORTS
        )
        self._commands = _connected(self._context.socket(zmq.PUSH), run_dir / "commands", _QUEUED_COMMANDS)
        self._encoder = msgspec.msgpack.Encoder()
        self._decoder = Decoder()

    @property
    def dropped(self) -> int:
        """Messages on the report socket that were no report."""
        return self._decoder.dropped

    async def receive(self, timeout_s: float) -> list[Report]:
        """The reports that have arrived; waits up to ``timeout_s`` for the first one."""
        if not await self._reports.poll(int(timeout_s * 1000)):
            return []
        reports: list[Report] = []
        with contextlib.suppress(zmq.Again):
            for _ in range(_BATCH):
                # Done already: with NOBLOCK the future is resolved before it is returned.
                report = self._decoder.report(await self._reports.recv_multipart(zmq.NOBLOCK))
                if report is not None:
                    reports.append(report)
        return reports

    def send(self, command: Command) -> bool:
        """Queue ``command``; False when the engine has left tens of thousands unread."""
        try:
            self._commands.send(self._encoder.encode(command), zmq.NOBLOCK)
        except zmq.Again:
            return False
        return True

    def close(self) -> None:
        """Close both sockets at once; unsent commands are dropped."""
        self._reports.close(linger=0)
        self._commands.close(linger=0)
        self._context.term()


S = TypeVar("S", bound=zmq.Socket)  # type: ignore[type-arg]


def _bound(socket: S, path: Path, queued: int) -> S:
    socket.set(zmq.RCVHWM, queued)
    socket.set(zmq.MAXMSGSIZE, _LARGEST_MESSAGE)
    socket.bind(f"ipc://{path}")
    return socket


def _connected(socket: S, path: Path, queued: int) -> S:
    socket.set(zmq.SNDHWM, queued)
    socket.set(zmq.LINGER, 1000)  # milliseconds that the end of the process waits for unsent messages
    socket.connect(f"ipc://{path}")
    return socket
