"""A progress bar on stderr that shows itself only when the work takes more than two seconds."""

import time
from types import TracebackType

from rich.console import Console
from rich.progress import (
    BarColumn,
    DownloadColumn,
    Progress,
    TextColumn,
    TimeRemainingColumn,
    TransferSpeedColumn,
)

PATIENCE_S = 2.0


class ByteBar:
    """``with ByteBar("writing", total_bytes) as bar: bar.advance(n)``."""

    def __init__(self, title: str, total: int) -> None:
        self._progress = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            DownloadColumn(),
            TransferSpeedColumn(),
            TimeRemainingColumn(),
            console=Console(stderr=True),
            transient=True,
        )
        self._task = self._progress.add_task(title, total=total)
        self._begin = time.monotonic()
        self._shown = False

    def __enter__(self) -> "ByteBar":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._shown:
            self._progress.stop()

    def advance(self, count: int) -> None:
        """``count`` more bytes are done."""
        self._progress.advance(self._task, count)
        if not self._shown and time.monotonic() - self._begin > PATIENCE_S:
            self._shown = True
            self._progress.start()
