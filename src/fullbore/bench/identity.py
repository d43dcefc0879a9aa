"""Who was measured, and by whom: a figure without them is a rumour."""

import os
import platform
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import aiohttp
import msgspec

from fullbore import __version__
from fullbore.bench.client import Client, Target
from fullbore.hardware.cpu import cpu_model

ASK_SECONDS = 5.0
# What servers tell about themselves: ours, SGLang, vLLM, llama.cpp. One that lacks a path answers 404.
PATHS = ("/server_info", "/get_server_info", "/version", "/props")
# Flags that are no business of a report, or pages long.
SECRET = re.compile(r"(^|_)(key|keys|token|password|secret)$|template")
LONGEST_VALUE = 200  # characters of one flag


@dataclass(frozen=True)
class Server:
    """A server as a report names it; "" and 0 where it does not say."""

    url: str = ""  # without /v1
    model: str = ""
    software: str = ""  # its Server header
    version: str = ""
    weights: str = ""  # their format
    vocab_size: int = 0
    max_model_len: int = 0
    flags: Mapping[str, str] = field(default_factory=dict)  # what it was started with and runs on
    emulated: str = ""  # what of it is emulated, where its answers mean nothing
    groups: int = 1  # data-parallel ones of an emulated server, of which one was measured

    @classmethod
    def of(cls, target: Target, told: Mapping[str, Any] | None = None) -> "Server":
        """``told``: what ``ask`` brought."""
        told = told or {}
        engine = told.get("engine")
        engine = engine if isinstance(engine, Mapping) and isinstance(engine.get("emulated"), str) else {}
        groups = engine.get("groups", 1)
        return cls(
            url=target.url,
            model=target.model,
            software=target.server,
            version=str(told.get("version") or told.get("build_info") or ""),
            weights=target.weights,
            vocab_size=target.vocab_size,
            max_model_len=target.max_model_len,
            flags=dict(_flags(told)),
            emulated=engine.get("emulated", ""),
            groups=groups if isinstance(groups, int) and groups > 0 else 1,
        )

    def describe(self) -> str:
        """``fullbore 0.1.0, DeepSeek-R1 (fp8)``."""
        software = " ".join(part for part in (self.software, self.version) if part)
        model = f"{self.model}{f' ({self.weights})' if self.weights else ''}"
        parts = filter(None, (software, model, self.emulated))
        return ", ".join(parts) or "a server that is not named"


@dataclass(frozen=True)
class Machine:
    """The client's machine, and what else it had to do."""

    system: str = ""
    cpu: str = ""
    cores: int = 0  # that this process may use
    load_average: float | None = None  # over the minute before the load
    python: str = ""
    fullbore: str = ""

    @classmethod
    def here(cls) -> "Machine":
        try:
            cores = len(os.sched_getaffinity(0))
        except AttributeError:  # not on Linux
            cores = os.cpu_count() or 0
        return cls(
            system=platform.platform(),
            cpu=cpu_model(),
            cores=cores,
            load_average=round(os.getloadavg()[0], 2),
            python=platform.python_version(),
            fullbore=__version__,
        )

    def describe(self) -> str:
        """``AMD EPYC 9R14, 2 cores, load average 0.3``."""
        load = "" if self.load_average is None else f"load average {self.load_average:g}"
        cores = f"{self.cores} core{'s' if self.cores != 1 else ''}" if self.cores else ""
        return ", ".join(part for part in (self.cpu, cores, load) if part) or "not known"


async def ask(client: Client) -> dict[str, Any]:
    """What the server says of itself, all paths together; {} when it says nothing. Never fails."""
    told: dict[str, Any] = {}
    timeout = aiohttp.ClientTimeout(total=ASK_SECONDS)
    for path in PATHS:
        try:
            async with client.session.get(client.url + path, timeout=timeout) as response:
                body = await response.read() if response.status == 200 else b""
            found = msgspec.json.decode(body) if body else None
        except (aiohttp.ClientError, TimeoutError, OSError, msgspec.DecodeError):
            continue  # it is asked for the report's sake; whether it works is shown by the load
        if isinstance(found, dict):
            told = {**found, **told}
    return told


def _flags(told: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Every plain value with its dotted name. What changes while it runs (state, counters) is not a flag."""
    flat: list[tuple[str, str]] = []
    for key, value in told.items():
        if key in ("state", "stats", "open_requests", "internal_states", "version", "build_info"):
            continue
        if isinstance(value, Mapping):
            flat += [(f"{key}.{name}", text) for name, text in _flags(value)]
        elif value not in (None, "", [], {}) and not SECRET.search(key.lower()):
            text = value if isinstance(value, str) else msgspec.json.encode(value).decode()
            flat.append((key, text[:LONGEST_VALUE]))
    return flat
