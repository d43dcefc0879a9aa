"""Running the steps of an installation: each once, with a time limit, its output kept."""

import json
import os
import subprocess
from collections.abc import Callable, Iterable
from pathlib import Path

from benchmarks.peers.peer import Step
from benchmarks.peers.processes import end_group
from fullbore.errors import FullboreError

TAIL_LINES = 12


class StepError(FullboreError):
    """An external command failed, took too long, or left nothing behind."""


class Workshop:
    """``home/done`` holds a mark for each finished step, ``home/logs`` the output of every one."""

    def __init__(self, home: Path, say: Callable[[str], None]) -> None:
        self._done, self._logs, self._say = home / "done", home / "logs", say
        for folder in (self._done, self._logs):
            folder.mkdir(parents=True, exist_ok=True)

    def do(self, steps: Iterable[Step]) -> None:
        """Every step that is not done already. Raises StepError at the first that fails."""
        for step in steps:
            if not self._is_done(step):
                self._say(f"{step.name} ...")
                self._run(step)
                self._mark(step).write_text(json.dumps(step.argv))

    def _mark(self, step: Step) -> Path:
        return self._done / f"{step.name.replace(' ', '-')}.json"

    def _is_done(self, step: Step) -> bool:
        """With the very same command (another version is another step), and what it made still there."""
        try:
            argv = json.loads(self._mark(step).read_text())
        except (OSError, ValueError):
            return False
        return bool(argv == list(step.argv)) and all(path.exists() for path in step.makes)

    def _run(self, step: Step) -> None:
        self._mark(step).unlink(missing_ok=True)
        log = self._logs / f"{step.name.replace(' ', '-')}.log"
        with log.open("wb") as output:
            try:
                process = subprocess.Popen(
                    step.argv,
                    stdin=subprocess.DEVNULL,
                    stdout=output,
                    stderr=subprocess.STDOUT,
                    env={**os.environ, **step.env},
                    start_new_session=True,
                )
            except OSError as error:
                raise StepError(f"{step.name}: {step.argv[0]} cannot be run: {error.strerror}") from error
            try:
                code = process.wait(step.timeout_s)
            except subprocess.TimeoutExpired:
                raise StepError(
                    f"{step.name} was ended after {step.timeout_s:g} s; its output is in {log}"
                ) from None
            finally:
                end_group(process, grace_s=5.0)
        if code:
            raise StepError(f"{step.name} ended with {code}; {tail(log)}")
        missing = [path for path in step.makes if not path.exists()]
        if missing:
            raise StepError(f"{step.name} ended well but left no {missing[0]}; {tail(log)}")


def tail(log: Path) -> str:
    """Where the log is and how it ends."""
    try:
        lines = log.read_text("utf-8", "replace").splitlines()[-TAIL_LINES:]
    except OSError:
        lines = []
    return f"its output is in {log}" + (", which ends with:\n  " + "\n  ".join(lines) if lines else "")
