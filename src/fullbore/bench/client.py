"""A client of any OpenAI-compatible server: what it serves, and one timed streaming completion."""

import os
import time
from array import array
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from types import TracebackType
from typing import Any
from urllib.parse import urlsplit

import aiohttp
import msgspec

from fullbore.errors import FullboreError, UsageError, did_you_mean
from fullbore.scenario.metrics import OK, Record
from fullbore.scenario.prompt import Material, RandomTokens, RandomWords, Request

DISCOVERY_SECONDS = 10.0
LONGEST_LINE = (
    8 * 2**20
)  # bytes of one server-sent event; a server that sends more is not one of ours to read
LONGEST_REASON = 300  # characters of a server's own words in an error


@dataclass(frozen=True)
class Target:
    """The server and model under load. ``vocab_size`` 0: not known, so prompts are text."""

    url: str  # without /v1
    model: str
    vocab_size: int
    max_model_len: int  # 0: not said
    server: str  # its Server header, "" when it sends none
    weights: str = ""  # their format, where the server says it (ours does)

    @property
    def material(self) -> Material:
        """What prompts are made of."""
        return RandomTokens(self.vocab_size) if self.vocab_size else RandomWords()


class Usage(msgspec.Struct):
    prompt_tokens: int = 0
    completion_tokens: int = 0


class Choice(msgspec.Struct):
    text: str | None = ""
    finish_reason: str | None = None


class Event(msgspec.Struct):
    """What is read of one chunk of a streamed completion."""

    choices: list[Choice] = []
    usage: Usage | None = None
    error: Any = None  # an object or a string, as servers please


class _Model(msgspec.Struct):
    id: str
    max_model_len: int | None = None
    root: str | None = None
    weights: str | None = None


class _EngineInfo(msgspec.Struct):
    vocab_size: int = 0


class _ServerInfo(msgspec.Struct):
    """Of ``/server_info``: the engine is null until the model is loaded."""

    engine: _EngineInfo | None = None


class _Models(msgspec.Struct):
    data: list[_Model]


def base_url(url: str) -> str:
    """``localhost:8000``, ``http://host/v1/`` and ``http://host/v1/completions`` name the same server."""
    text = url if "://" in url else f"http://{url}"
    for ending in ("/", "/completions", "/chat", "/v1"):
        text = text.removesuffix(ending)
    try:
        parts = urlsplit(text)
        usable = parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
    except ValueError:
        usable = False
    if not usable:
        raise UsageError(f"{url!r} is not the URL of a server (expected for instance http://127.0.0.1:8000)")
    return text


class Client:
    """Connections to one server; an async context manager."""

    def __init__(self, url: str, api_key: str = "", timeout_s: float = 600.0) -> None:
        """``timeout_s``: how long a stream may bring nothing before its request counts as failed."""
        if not (api_key.isascii() and api_key.isprintable()):
            raise UsageError("the API key holds characters that no HTTP header may; expected printable ASCII")
        self.url = base_url(url)
        self._headers = {"Authorization": f"Bearer {api_key}"} if api_key else {}
        self._timeout_s = timeout_s
        self._decoder = msgspec.json.Decoder(Event)
        self._session: aiohttp.ClientSession | None = None

    async def __aenter__(self) -> "Client":
        # A connection for each request: one kept alive may be closed by the server as it is used again.
        self._session = aiohttp.ClientSession(
            headers=self._headers, connector=aiohttp.TCPConnector(limit=0, force_close=True)
        )
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._session is not None:
            await self._session.close()

    @property
    def session(self) -> aiohttp.ClientSession:
        if self._session is None:
            raise RuntimeError("Client is used outside of its 'async with'")
        return self._session

    async def discover(self, model: str = "", vocab_size: int = 0) -> Target:
        """What the server serves. ``model`` and ``vocab_size`` win if given. Raises FullboreError."""
        body, server = await self._get("/v1/models")
        try:
            models = msgspec.json.decode(body, type=_Models).data
        except msgspec.DecodeError as error:
            raise FullboreError(
                f"{self.url}/v1/models answered something else than a list of models ({error}); "
                "is this an OpenAI-compatible server?"
            ) from error
        names = [each.id for each in models]
        if not names:
            raise FullboreError(f"{self.url} serves no model; load one there first")
        if model and model not in names:
            raise UsageError(
                f"{self.url} does not serve the model {model!r}{did_you_mean(model, names)}; "
                f"it serves {', '.join(names[:8])}"
            )
        if not model and len({each.root or each.id for each in models}) > 1:  # else aliases of one model
            raise UsageError(f"{self.url} serves {', '.join(names[:8])}: choose one with --model")
        chosen = next(each for each in models if not model or each.id == model)
        return Target(
            url=self.url,
            model=chosen.id,
            vocab_size=vocab_size or await self._vocab_size(),
            max_model_len=chosen.max_model_len or 0,
            server=server,
            weights=chosen.weights or "",
        )

    async def _vocab_size(self) -> int:
        """From ``/server_info`` where the server has it (ours does), else 0."""
        try:
            body, _ = await self._get("/server_info")
            engine = msgspec.json.decode(body, type=_ServerInfo).engine
            return max(0, engine.vocab_size) if engine else 0
        except (FullboreError, msgspec.DecodeError):
            return 0

    async def _get(self, path: str) -> tuple[bytes, str]:
        """Body and Server header of a 200; every other ending is an error that says what to do."""
        url = self.url + path
        try:
            timeout = aiohttp.ClientTimeout(total=DISCOVERY_SECONDS)
            async with self.session.get(url, timeout=timeout) as response:
                body = await response.read()
                status, server = response.status, response.headers.get("Server", "")
        except aiohttp.ClientConnectorDNSError as error:
            raise FullboreError(f"{self.url}: no such host; check the URL") from error
        except aiohttp.ClientConnectorError as error:
            reason = os.strerror(error.errno) if error.errno else str(error)
            raise FullboreError(
                f"no server answers at {self.url} ({reason}); start one (fullbore serve demo) or mend the URL"
            ) from error
        except TimeoutError as error:
            raise FullboreError(
                f"{url} did not answer within {DISCOVERY_SECONDS:.0f} s; is the server busy loading, or hung?"
            ) from error
        except aiohttp.ClientError as error:
            raise FullboreError(f"{url} does not speak HTTP as expected: {error}; check the URL") from error
        if status == 200:
            return body, server
        advice = {
            401: "the server wants an API key: --api-key, FULLBORE_API_KEY or OPENAI_API_KEY",
            403: "the API key may not do this",
            404: "nothing OpenAI-compatible is there; give the server's address, such as http://127.0.0.1:8000",
            503: "the server is loading, draining or overloaded; wait until its /ready answers 200",
        }.get(status, "look at the server's log")
        raise FullboreError(f"{url} answered {status}: {_reason(body)} ({advice})")

    async def complete(self, target: Target, request: Request, on_chunk: Callable[[], None]) -> Record:
        """Send one request and time its stream; whatever the server does is an outcome, never raised."""
        body = {
            "model": target.model,
            "prompt": target.material.render(request.prompt),
            "max_tokens": request.output_tokens,
            "temperature": 0,
            "ignore_eos": True,
            "stream": True,
            "stream_options": {"include_usage": True},
        }
        payload = msgspec.json.encode(body)
        chunks = array("d")
        usage: Usage | None = None
        outcome, error, finished = OK, "", False
        sent_s = time.perf_counter()
        try:
            async with self.session.post(
                f"{target.url}/v1/completions",
                data=payload,
                headers={"Content-Type": "application/json"},
                timeout=aiohttp.ClientTimeout(total=None, sock_read=self._timeout_s, sock_connect=30),
            ) as response:
                if response.status != 200:
                    outcome, error = f"http {response.status}", _reason(await response.read())
                else:
                    async for line, now_s in _data_lines(response):
                        event = self._decoder.decode(line)
                        if event.error is not None:
                            outcome, error = "error in stream", _reason(msgspec.json.encode(event.error))
                            break
                        usage = event.usage or usage
                        for choice in event.choices:
                            finished = finished or choice.finish_reason is not None
                            # The chunk that only says why it ended carries no token, unless alone.
                            if choice.text or choice.finish_reason is None or not chunks:
                                chunks.append(now_s)
                                on_chunk()
                    if outcome == OK and not finished:
                        outcome, error = (
                            "stream stopped",
                            f"after {len(chunks)} chunks, without a finish_reason",
                        )
        except TimeoutError:
            outcome, error = "timeout", f"nothing came for {self._timeout_s:g} s"
        except aiohttp.ClientConnectorError as problem:
            outcome, error = "no connection", str(problem)
        except (aiohttp.ClientError, ConnectionError) as problem:
            outcome, error = "stream stopped", str(problem) or type(problem).__name__
        except (msgspec.DecodeError, ValueError) as problem:
            outcome, error = "unreadable answer", str(problem)
        return Record(
            number=request.number,
            asked_input=request.input_tokens,
            asked_output=request.output_tokens,
            sent_s=sent_s,
            ended_s=time.perf_counter(),
            chunks_s=chunks,
            input_tokens=usage.prompt_tokens if usage else request.input_tokens,
            output_tokens=usage.completion_tokens if usage else len(chunks),
            outcome=outcome,
            error=error[:LONGEST_REASON],
        )


async def _data_lines(response: aiohttp.ClientResponse) -> AsyncIterator[tuple[bytes, float]]:
    """The payload of every ``data:`` line with the time at which its bytes came, up to ``[DONE]``."""
    rest = b""
    async for piece in response.content.iter_any():
        now_s = time.perf_counter()
        *lines, rest = (rest + piece).split(b"\n")
        if len(rest) > LONGEST_LINE:
            raise ValueError(f"a line of more than {LONGEST_LINE} bytes")
        for line in lines:
            if line.startswith(b"data:"):
                payload = line[5:].strip()
                if payload == b"[DONE]":
                    return
                yield payload, now_s


def _reason(body: bytes) -> str:
    """The server's own words: ``message`` of an OpenAI error (nested or flat), else the start of the body."""
    try:
        value = msgspec.json.decode(body)
    except msgspec.DecodeError:
        value = None
    for key in ("error", "message"):
        if isinstance(value, dict) and key in value:
            value = value[key]
    text = value if isinstance(value, str) else body.decode("utf-8", "replace")
    return " ".join(text.split())[:LONGEST_REASON] or "no reason given"
