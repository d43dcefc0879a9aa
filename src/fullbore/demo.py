"""``python -m fullbore.demo``: serve the demo model, talk to it, measure it, and leave nothing running."""

import importlib
import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from fractions import Fraction
from pathlib import Path
from types import FrameType, ModuleType
from typing import IO, TYPE_CHECKING

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

from fullbore.bench import running
from fullbore.bench.command import INTERRUPTED
from fullbore.bench.measuring import Bench, measure
from fullbore.errors import FullboreError
from fullbore.results.page import write_page
from fullbore.results.result import Result
from fullbore.results.table import console, report
from fullbore.scenario.arrival import ClosedLoop
from fullbore.scenario.scenario import load_scenario

if TYPE_CHECKING:
    from openai import OpenAI
    from openai.types.chat import ChatCompletionMessageParam

# One tuple is one conversation: what the user says, turn after turn.
CONVERSATIONS = (
    ("What is 347 + 586?",),
    ("How many minutes are in 7 hours?",),
    ("Anna has 48 apples and buys 27 more. Then Anna gives 19 to Tom. How many apples does Anna have now?",),
    ("What is Fullbore?",),
    ("What is the prefix tree?",),
    ("What is 24 * 7?", "Now subtract 59."),
)
LONGEST_ANSWER = 400  # tokens
ANSWER_SECONDS = 120.0

SCENARIOS = (("dialog", Fraction(1, 8)), ("code", Fraction(1, 16)))
CONCURRENCIES = (1, 4, 16)
SECONDS = 8.0  # at one concurrency; what is in flight then still finishes
SEED = 1  # the server is new, so nothing of these prompts is in its prefix cache

START_SECONDS = 300.0
STOP_SECONDS = 30.0
LOG_LINES = 15
PAGE = "fullbore-demo.html"  # in the folder for temporary files


@dataclass(frozen=True)
class Steps:
    """What the demo does; another model or a smaller load is another ``Steps``."""

    serve: tuple[str, ...] = (sys.executable, "-m", "fullbore", "serve", "demo")
    conversations: tuple[tuple[str, ...], ...] = CONVERSATIONS
    scenarios: tuple[tuple[str, Fraction], ...] = SCENARIOS
    concurrencies: tuple[int, ...] = CONCURRENCIES
    seconds: float = SECONDS


def main(steps: Steps | None = None) -> int:
    """Run the demo; 0 when everything answered, 1 when something did not, 130 when interrupted."""
    screen = console()
    signal.signal(signal.SIGTERM, _end)
    signal.signal(signal.SIGHUP, _end)
    try:
        return run(steps or Steps(), screen)
    except FullboreError as error:
        print(f"fullbore: error: {error}", file=sys.stderr)
        return error.exit_code
    except KeyboardInterrupt:
        print("\nfullbore: interrupted; the server is stopped", file=sys.stderr)
        return INTERRUPTED


def run(steps: Steps, screen: Console) -> int:
    """Serve, talk, measure, stop. Raises FullboreError for a server that does not start or answer."""
    started_s = time.monotonic()
    _openai()  # before anything is started: it may be missing
    results: list[Result] = []
    interrupted = False
    with _server(steps.serve, screen) as url:
        screen.print(f"The server is ready at {url} after {time.monotonic() - started_s:.1f} s.")
        with _connect(url) as client:
            model = _talk(client, steps.conversations, screen)
        screen.rule(f"Measuring {model}", align="left")
        for name, scale in steps.scenarios:
            scenario = replace(load_scenario(name).scaled(scale), seed=SEED)
            loads = tuple(map(ClosedLoop, steps.concurrencies))
            bench = Bench(url, scenario, loads, seconds=steps.seconds)
            interrupted = not running.run(measure(bench, results.append, console(stderr=True)))
            if interrupted:
                break
    if results:
        screen.print(report(results))
        page = Path(tempfile.gettempdir()) / PAGE
        write_page(page, results, f"{model}, measured by the demo")
        screen.print(f"The same with plots: {page}", soft_wrap=True)
    if interrupted:
        raise KeyboardInterrupt
    load = f"--concurrency {','.join(map(str, steps.concurrencies))} --seconds {steps.seconds:g}"
    screen.print("To repeat it beside a running 'fullbore serve demo':", style="dim")
    for name, scale in steps.scenarios:
        command = f"fullbore bench http://127.0.0.1:8000 --scenario {name} --scale {scale} {load}"
        screen.print(f"  {command}", style="dim", soft_wrap=True)
    screen.print(f"Done in {time.monotonic() - started_s:.0f} s; the server has stopped.")
    every = [result.figures for result in results]
    return 0 if all(got.requests_ok and not got.requests_failed for got in every) else 1


def _end(number: int, frame: FrameType | None) -> None:
    for again in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(again, signal.SIG_IGN)  # a second one must not break off the stopping
    raise SystemExit(128 + number)  # unwinds through the server's context, which stops it


@contextmanager
def _server(command: Sequence[str], screen: Console) -> Iterator[str]:
    """A server of one's own on a free port; gone when the context ends, however it ends."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    command = (*command, "--host", "127.0.0.1", "--port", str(port))
    environment = {name: value for name, value in os.environ.items() if not name.startswith("FULLBORE_")}
    with tempfile.TemporaryFile() as log:
        # A session of its own: a Ctrl-C in this terminal reaches the demo only, which then stops the server.
        process = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, env=environment, start_new_session=True
        )
        try:
            url = f"http://127.0.0.1:{port}"
            _wait_until_ready(process, url, log, screen)
            yield url
            if process.poll() is not None:
                raise FullboreError(
                    f"the server ended by itself with exit code {process.returncode}{_tail(log)}"
                )
        finally:
            _stop(process)
        if process.returncode:
            raise FullboreError(f"the server stopped with exit code {process.returncode}{_tail(log)}")


def _wait_until_ready(process: "subprocess.Popen[bytes]", url: str, log: IO[bytes], screen: Console) -> None:
    columns = (TextColumn("Starting the server"), BarColumn(), TimeElapsedColumn())
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))  # the loopback needs no proxy
    with Progress(*columns, console=screen, transient=True) as progress:
        bar = progress.add_task("", total=None)
        give_up_s = time.monotonic() + START_SECONDS
        while time.monotonic() < give_up_s:
            if process.poll() is not None:
                raise FullboreError(
                    f"the server did not start; it ended with exit code {process.returncode}{_tail(log)}"
                )
            try:
                with opener.open(f"{url}/ready", timeout=5):
                    return
            except urllib.error.HTTPError as loading:  # a 503, which tells how far it is
                progress.update(bar, total=1, completed=_loaded(loading.read()))
            except OSError:
                pass  # not listening yet
            time.sleep(0.1)
    raise FullboreError(f"the server was not ready after {START_SECONDS:.0f} s{_tail(log)}")


def _loaded(body: bytes) -> float:
    """The share of the model that ``/ready`` says is loaded; 0 when it says something else."""
    try:
        return float(json.loads(body)["loaded"])
    except (ValueError, KeyError, TypeError):
        return 0.0


def _stop(process: "subprocess.Popen[bytes]") -> None:
    """Drain; if that takes too long, or Ctrl-C is pressed again, kill the whole session, engine included."""
    try:
        process.terminate()
        process.wait(STOP_SECONDS)
    except subprocess.TimeoutExpired:
        print(f"fullbore: the server did not stop within {STOP_SECONDS:.0f} s: killed", file=sys.stderr)
    finally:
        with suppress(ProcessLookupError):  # all gone, as it should be
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def _tail(log: IO[bytes]) -> str:
    log.seek(0)
    lines = log.read().decode("utf-8", "replace").splitlines()[-LOG_LINES:]
    return "; the end of its log:\n  " + "\n  ".join(lines) if lines else " and no word"


def _connect(url: str) -> "OpenAI":
    openai = _openai()
    # No retries: the demo shows what happened. No proxy: the server is on the loopback.
    client: OpenAI = openai.OpenAI(
        base_url=f"{url}/v1",
        api_key="none",
        max_retries=0,
        timeout=ANSWER_SECONDS,
        http_client=openai.DefaultHttpxClient(trust_env=False),
    )
    return client


def _openai() -> ModuleType:
    try:
        return importlib.import_module("openai")
    except ModuleNotFoundError as error:
        raise FullboreError(
            f"the demo talks through the official openai client, but {error.name} is not installed "
            "(pip install 'fullbore[demo]')"
        ) from error


def _talk(client: "OpenAI", conversations: Sequence[Sequence[str]], screen: Console) -> str:
    """Hold every conversation; returns the model's name. Raises FullboreError when an answer fails."""
    openai = _openai()
    try:
        model = client.models.list().data[0].id
        screen.rule(f"Talking to {model} through the openai client", align="left")
        for conversation in conversations:
            messages: list[ChatCompletionMessageParam] = []
            for words in conversation:
                messages.append({"role": "user", "content": words})
                screen.print(f"\n> {words}", style="bold cyan", markup=False)
                answer = _answer(client, model, messages, screen)
                messages.append({"role": "assistant", "content": answer})
    except openai.OpenAIError as error:
        raise FullboreError(f"the server's answer failed: {error}") from error
    screen.print()
    return model


def _answer(
    client: "OpenAI", model: str, messages: "list[ChatCompletionMessageParam]", screen: Console
) -> str:
    """Print one answer as it streams, its thought dimmed, and how fast it came."""
    sent_s = time.perf_counter()
    first_s = last_s = 0.0
    tokens = 0
    thinking, answer = "", ""

    def show(text: str, style: str) -> None:
        screen.print(text, end="", style=style, markup=False, highlight=False, soft_wrap=True)

    stream = client.chat.completions.create(
        model=model,
        messages=messages,
        temperature=0,
        max_tokens=LONGEST_ANSWER,
        stream=True,
        stream_options={"include_usage": True},
    )
    for chunk in stream:
        if chunk.usage:
            tokens = chunk.usage.completion_tokens
        for choice in chunk.choices:
            thought = getattr(choice.delta, "reasoning_content", None) or ""
            words = choice.delta.content or ""
            if thought or words:
                last_s = time.perf_counter()
                first_s = first_s or last_s
            if thought:
                thinking += thought
                show(thought, "dim italic")
            if words:
                if thinking and not answer:
                    show("\n", "")
                    words = words.lstrip("\n")
                answer += words
                show(words, "")
    if not answer:
        raise FullboreError(f"the model gave no answer to {messages[-1]!r}")
    speed = (
        f", {(tokens - 1) / (last_s - first_s):.0f} tokens a second"
        if last_s > first_s and tokens > 1
        else ""
    )
    screen.print(
        f"\n  [first token after {(first_s - sent_s) * 1e3:.0f} ms, {tokens} tokens{speed}]",
        style="dim green",
        markup=False,
    )
    return answer


if __name__ == "__main__":
    sys.exit(main())
