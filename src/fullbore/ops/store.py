"""The table of times on disk: one file of JSON lines for each fingerprint of a machine. Imports no torch.

Every record is appended as it is measured, in one write under a lock, so that Ctrl-C loses at most the one
at work and two processes may measure at once. A last line that was cut off is dropped; any other line that
cannot be read means damage: the file is kept aside under another name, and all goes on without it.
"""

import contextlib
import errno
import fcntl
import logging
import os
import tempfile
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from io import FileIO
from pathlib import Path

import msgspec

from fullbore.errors import FullboreError, UsageError
from fullbore.hardware.fingerprint import differences, digest
from fullbore.ops.times import Record, Times

VERSION = 1
_log = logging.getLogger(__name__)
_encode = msgspec.json.Encoder().encode
_decode = msgspec.json.Decoder(Record).decode


class Header(msgspec.Struct, frozen=True, tag="table"):
    """The first line: what format this is, and of what machine."""

    version: int
    fingerprint: dict[str, str]


class DamagedTable(FullboreError):
    """A file that is no table of times, or one of another version."""


@dataclass
class Store:
    """``fingerprint``: of this machine. ``folder``: where tables are kept.

    ``trouble``: why the last read or write did not go as it should, "" when it did.
    """

    fingerprint: Mapping[str, str]
    folder: Path
    trouble: str = field(default="", init=False)

    @property
    def path(self) -> Path:
        return self.folder / f"times-{VERSION}-{digest(self.fingerprint)}.jsonl"

    def load(self) -> Times:
        """What was measured on machines like this one; empty, with ``trouble`` said, where that fails."""
        try:
            return read(self.path, self.fingerprint)
        except FileNotFoundError:
            return Times()
        except OSError as error:
            self._tell(f"{self.path} cannot be read ({error.strerror}); its times are not used")
        except FullboreError as error:
            self._tell(f"{error}; {self._aside()}")
        return Times()

    def strangers(self) -> list[str]:
        """Why each other table in the folder is not used, for people."""
        told = []
        for path in sorted(self.folder.glob("times-*.jsonl")):
            if path != self.path:
                with contextlib.suppress(OSError, FullboreError):
                    told.append(f"{path.name}: {', '.join(differences(self.fingerprint, _header(path)))}")
        return told

    def append(self, records: Iterable[Record]) -> None:
        """Add to the file. What cannot be written is told once and costs no more than that."""
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            self._append(b"".join(_encode(record) + b"\n" for record in records))
        except OSError as error:
            self._tell(
                f"times cannot be kept in {self.path} ({error.strerror}); they are measured again next time"
            )

    def _append(self, lines: bytes) -> None:
        with self.path.open("a+b", buffering=0) as file:
            fcntl.flock(file, fcntl.LOCK_EX)  # ends with the file
            size = _whole_lines(file)
            file.truncate(size)  # what follows was left by a process that was killed within a line
            if size == 0:
                lines = _encode(Header(VERSION, dict(self.fingerprint))) + b"\n" + lines
            written = file.write(lines)
            if written != len(lines):  # a full disk takes part of it: leave no half a line behind
                file.truncate(size)
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    def _aside(self) -> str:
        """Move the file away; in words, where to."""
        for number in range(1, 1000):
            kept = self.path.with_name(f"{self.path.name}.damaged-{number}")
            if not kept.exists():
                try:
                    self.path.rename(kept)
                except OSError as error:
                    return f"it could not be moved aside ({error.strerror}) and is not used"
                return f"it is kept as {kept.name} and not used"
        return "it is not used"

    def _tell(self, trouble: str) -> None:
        if trouble != self.trouble:
            _log.warning("%s", trouble)
        self.trouble = trouble


def default_folder() -> Path:
    """``fullbore`` in the user's cache."""
    return Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser() / "fullbore"


def read(path: Path, fingerprint: Mapping[str, str] | None = None) -> Times:
    """The table in ``path``. OSError, or DamagedTable; UsageError where it is of another machine than
    ``fingerprint`` says."""
    header, *lines = path.read_bytes().split(b"\n")[:-1] or [b""]  # the last has no line's end, or is empty
    if not header:
        return Times()  # another process has only begun to write it
    theirs = _parse(header, path)
    if fingerprint is not None and (unlike := differences(fingerprint, theirs)):
        raise UsageError(
            f"{path} was measured on another kind of machine: {', '.join(unlike)}; measure on this one "
            "(fullbore tune MODEL)"
        )
    records: list[Record] = []
    for number, line in enumerate(lines, 2):
        try:
            records.append(_decode(line))
        except (msgspec.DecodeError, UnicodeDecodeError) as error:
            raise DamagedTable(f"{path} is damaged: line {number} is no record ({error})") from error
    return Times(records)


def write(path: Path, times: Iterable[Record], fingerprint: Mapping[str, str]) -> None:
    """Write a table whole: it is there complete, or the old one still is."""
    lines = [_encode(Header(VERSION, dict(fingerprint))), *(_encode(record) for record in times)]
    descriptor, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}-")
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(b"\n".join(lines) + b"\n")
            file.flush()
            os.fsync(file.fileno())
        os.chmod(name, 0o644)
        os.replace(name, path)
    except BaseException:
        with contextlib.suppress(OSError):
            os.unlink(name)
        raise


def fingerprint_of(path: Path) -> Mapping[str, str]:
    """Of the machine that the table in ``path`` was measured on. OSError, DamagedTable."""
    return _header(path)


def _header(path: Path) -> Mapping[str, str]:
    with path.open("rb") as file:
        return _parse(file.readline(1 << 20), path)


def _whole_lines(file: FileIO) -> int:
    """Bytes up to the end of the last whole line."""
    end = file.seek(0, os.SEEK_END)
    while end:
        begin = max(0, end - 4096)
        file.seek(begin)
        found = file.read(end - begin).rfind(b"\n")
        if found >= 0:
            return begin + found + 1
        end = begin
    return 0


def _parse(line: bytes, path: Path) -> Mapping[str, str]:
    try:
        header = msgspec.json.decode(line, type=Header)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise DamagedTable(f"{path} is no table of times ({error})") from error
    if header.version != VERSION:
        raise DamagedTable(f"{path} has version {header.version}, this fullbore reads version {VERSION}")
    return header.fingerprint
