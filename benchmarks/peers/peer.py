"""What the harness must know of an engine to install it, start it and drive it: one small file for each."""

import json
import sys
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from hashlib import sha256
from pathlib import Path

from fullbore.model.make_checkpoint import config_fields
from fullbore.model.presets import PRESETS

MINUTES = 60.0
SPARE_TOKENS = 64  # a slot holds more than the longest request, so that no server shifts its context


@dataclass(frozen=True)
class Step:
    """One external command of an installation or a conversion. Peers may share a step: it is run once."""

    name: str  # of its log and its mark, so without slashes
    argv: Sequence[str]
    makes: tuple[Path, ...]  # what it must leave behind
    timeout_s: float
    env: Mapping[str, str] = field(default_factory=dict)  # beside the caller's own


@dataclass(frozen=True)
class Command:
    """How a server is started. ``env`` comes on top of the caller's own."""

    argv: Sequence[str]
    env: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Setting:
    """What is the same for every peer."""

    home: Path  # virtual environments, checkpoints, logs, marks
    config: str  # what ``fullbore make-checkpoint --config`` takes
    threads: int
    slots: int  # requests at once
    longest: int  # tokens of the longest request, answer included
    python: str = sys.executable  # makes the virtual environments

    @property
    def context(self) -> int:
        """Tokens that a server must hold for one request."""
        return self.longest + SPARE_TOKENS

    @cached_property
    def vocab_size(self) -> int:
        return int(config_fields(self.config)["vocab_size"])

    @cached_property
    def model(self) -> str:
        return model_name(self.config)

    def venv(self, name: str) -> Path:
        return self.home / "venvs" / name

    def checkpoint(self, format: str) -> Path:
        """The folder of random weights in ``format``, fp8 or bf16."""
        return self.home / "checkpoints" / f"{self.model}-{format}"

    def make_checkpoint(self, format: str) -> Step:
        """Same seed for every format, and every field that other engines ask for is in its config.json."""
        folder = self.checkpoint(format)
        argv = (sys.executable, "-m", "fullbore", "make-checkpoint", str(folder), "--config", self.config)
        return Step(
            f"checkpoint {self.model} {format}",
            (*argv, "--format", format, "--force"),
            (folder / "config.json",),
            30 * MINUTES,
        )

    def make_venv(
        self, name: str, *commands: Sequence[str], timeout_s: float = 30 * MINUTES
    ) -> Iterator[Step]:
        """A virtual environment, then each of ``commands`` given to its pip."""
        folder = self.venv(name)
        python = folder / "bin" / "python"
        yield Step(f"{name} venv", (self.python, "-m", "venv", str(folder)), (python,), 5 * MINUTES)
        for number, command in enumerate(commands, 1):
            argv = (str(python), "-m", "pip", "--disable-pip-version-check", *command)
            yield Step(f"{name} pip {number}", argv, (), timeout_s)


def model_name(config: str) -> str:
    """The preset's name, or one that changes with the content of the file. Raises UsageError."""
    fields = config_fields(config)
    if config in PRESETS:
        return config
    digest = sha256(json.dumps(fields, sort_keys=True).encode()).hexdigest()[:8]
    path = Path(config).resolve()
    return f"{path.name if path.is_dir() else path.parent.name}-{digest}"


class Peer(ABC):
    """One engine with one format of weights."""

    ready = "/health"  # answers 200 when requests may come

    @property
    @abstractmethod
    def name(self) -> str:
        """``llama.cpp Q8_0``: engine, then format."""

    @property
    @abstractmethod
    def weights(self) -> str:
        """Its class in comparisons: bf16, 8-bit or 4-bit."""

    @property
    @abstractmethod
    def version(self) -> str:
        """What exactly was measured."""

    @abstractmethod
    def steps(self, setting: Setting) -> Iterator[Step]:
        """Installation, checkpoint, conversion, in this order; those that are done already are skipped."""

    @abstractmethod
    def command(self, setting: Setting, port: int) -> Command:
        """Serves the OpenAI interface on 127.0.0.1:``port``."""
