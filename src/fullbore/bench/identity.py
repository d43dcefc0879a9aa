"""What a server says of itself, for the report's sake."""

import re
from collections.abc import Mapping
from typing import Any

import aiohttp
import msgspec

from fullbore.bench.client import Client, Target
from fullbore.results.identity import Server

ASK_SECONDS = 5.0
# What servers tell about themselves: ours, SGLang, vLLM, llama.cpp. One that lacks a path answers 404.
PATHS = ("/server_info", "/get_server_info", "/version", "/props")
# Flags that are no business of a report, or pages long.
SECRET = re.compile(r"(^|_)(key|keys|token|password|secret)$|template")
LONGEST_VALUE = 200  # characters of one flag


def server_of(target: Target, told: Mapping[str, Any] | None = None) -> Server:
    """``told``: what ``ask`` brought."""
    told = told or {}
    engine = told.get("engine")
    engine = engine if isinstance(engine, Mapping) and isinstance(engine.get("emulated"), str) else {}
    groups = engine.get("groups", 1)
    return Server(
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
