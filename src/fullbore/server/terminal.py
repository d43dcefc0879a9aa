"""What the person who started the server sees: a bar while it loads, then where it is and how to ask it."""

import contextlib
import json
import shlex
from types import TracebackType
from typing import Any, Self

from rich.console import Console as RichConsole
from rich.progress import BarColumn, DownloadColumn, Progress, TaskID, TextColumn, TimeRemainingColumn

from fullbore import __version__
from fullbore.server.answers import Engine
from fullbore.server.service import Settings
from fullbore.server.serving import Console

QUESTION = "What is 17 + 25?"


class Terminal:
    """Writes to stderr, like the log. A terminal that cannot be written to stops nothing."""

    def __init__(self, settings: Settings, address: tuple[Any, ...], keyed: bool) -> None:
        self._settings = settings
        self._keyed = keyed
        host, port = settings.host, address[1]
        name = {"0.0.0.0": "127.0.0.1", "::": "[::1]"}.get(host, f"[{host}]" if ":" in host else host)
        self._url = f"http://{name}:{port}"
        self._out = RichConsole(stderr=True, highlight=False, soft_wrap=True)
        self._bar = Progress(
            TextColumn("{task.description}"), BarColumn(), DownloadColumn(), TimeRemainingColumn(),
            console=self._out, transient=True,
        )  # fmt: skip
        self._task: TaskID | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        with contextlib.suppress(OSError):
            self._bar.stop()

    def console(self) -> Console:
        return Console(self._progress, self._ready, self._draining)

    def _progress(self, done: int, total: int) -> None:
        with contextlib.suppress(OSError):
            if self._task is None:
                self._task = self._bar.add_task(f"loading {self._settings.served[0]}", total=total)
                self._bar.start()
            self._bar.update(self._task, completed=done, total=total)

    def _ready(self, engine: Engine) -> None:
        with contextlib.suppress(OSError):
            self._bar.stop()
        facts = engine.ready
        self._say(f"Fullbore {__version__} serves {self._settings.served[0]!r} at {self._url}/v1")
        self._say(
            f"  context {facts.max_model_len} tokens, cache {facts.pages * facts.page_size} tokens "
            f"in {facts.kv_cache_dtype} ({facts.kv_bytes_per_token} bytes a token)"
        )
        if facts.conversion:
            self._say(f"  {facts.conversion}")
        if facts.emulated:
            weights, cache = facts.weight_bytes, facts.pages * facts.page_size * facts.kv_bytes_per_token
            self._say(f"  memory: weights {weights / 2**30:.2f} GiB, cache {cache / 2**30:.2f} GiB")
            self._say(facts.emulated, "bold red")
            for note in facts.emulates:
                self._say(f"  {note}", "red")
        self._say(f"Try it:\n{self._example()}")

    def _draining(self, requests: int) -> None:
        if requests:
            self._say(f"stopping: {requests} running requests are finished first (once more: stop at once)")

    def _example(self) -> str:
        body = json.dumps({"messages": [{"role": "user", "content": QUESTION}]})
        key = '-H "Authorization: Bearer $FULLBORE_API_KEY" ' if self._keyed else ""
        return (
            f"  curl {self._url}/v1/chat/completions {key}-H 'Content-Type: application/json' \\\n"
            f"    -d {shlex.quote(body)}"
        )

    def _say(self, text: str, style: str = "") -> None:
        with contextlib.suppress(OSError):
            self._out.print(text, markup=False, style=style or None)
