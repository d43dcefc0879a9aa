"""A client of any OpenAI-compatible server: what it serves, and one timed streaming completion."""

import asyncio
import os
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from types import TracebackType
from typing import Any
from urllib.parse import urlsplit

import aiohttp
import msgspec

from fullbore.bench.answer import Answer
from fullbore.bench.conversation import Conversation
from fullbore.bench.exchange import NoConnectionError, Peer, Silence
from fullbore.bench.running import Turns
from fullbore.errors import FullboreError, UsageError, did_you_mean
from fullbore.scenario.metrics import OK, Record
from fullbore.scenario.prompt import Material, RandomTokens, RandomWords, Request

DISCOVERY_SECONDS = 10.0
LONGEST_REASON = 300  # characters of a server's own words in an error
COMPLETIONS, CHAT = "completions", "chat"
ENDPOINTS = {COMPLETIONS: "completions", CHAT: "chat/completions"}  # -> path below /v1/


def _nothing() -> None:
    """For who does not want to know."""


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
    if usable and "@" in parts.netloc:
        raise UsageError(
            f"the URL of {parts.hostname} holds a name or password, which would stand in every report; "
            "give the server's address alone, and a key with --api-key"
        )
    if not usable:
        raise UsageError(f"{url!r} is not the URL of a server (expected for instance http://127.0.0.1:8000)")
    return text


@dataclass(frozen=True)
class Settings:
    """How a server is asked. ``timeout_s``: a stream that brings nothing for so long has failed."""

    url: str  # without /v1
    api_key: str = ""
    timeout_s: float = 600.0
    endpoint: str = COMPLETIONS
    extra_body: Mapping[str, Any] = field(default_factory=dict)  # wins over the body's own fields

    def __post_init__(self) -> None:
        if not (self.api_key.isascii() and self.api_key.isprintable()):
            raise UsageError("the API key holds characters that no HTTP header may; expected printable ASCII")
        if self.endpoint not in ENDPOINTS:
            raise UsageError(
                f"unknown endpoint {self.endpoint!r}{did_you_mean(self.endpoint, ENDPOINTS)}; "
                f"expected one of {', '.join(ENDPOINTS)}"
            )

    @property
    def chat(self) -> bool:
        return self.endpoint == CHAT


class Client:
    """Connections to one server; an async context manager."""

    def __init__(
        self,
        url: str,
        api_key: str = "",
        timeout_s: float = 600.0,
        endpoint: str = COMPLETIONS,
        extra_body: Mapping[str, Any] | None = None,
    ) -> None:
        """See ``Settings``."""
        self.settings = Settings(base_url(url), api_key, timeout_s, endpoint, dict(extra_body or {}))
        self.url = self.settings.url
        self._peer = Peer(self.url)
        self._path = f"/v1/{ENDPOINTS[endpoint]}"
        self._turns = Turns()
        self._headers = {"Content-Type": "application/json", **_headers(api_key)}
        self._session: aiohttp.ClientSession | None = None

    async def __aenter__(self) -> "Client":
        self._session = aiohttp.ClientSession(headers=_headers(self.settings.api_key))
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

    async def complete(
        self,
        target: Target,
        request: Request,
        conversation: Conversation | None = None,
        *,
        due_s: float | None = None,
        on_sent: Callable[[], None] = _nothing,
        on_chunk: Callable[[], None] = _nothing,
    ) -> Record:
        """Send one request and time its stream; whatever the server does is an outcome, never raised.

        ``conversation``: what it is the next turn of, and what its answer is added to. ``due_s``: when to
        send it, on the clock of ``time.perf_counter``; everything is prepared before.
        """
        await self._turns.take()
        conversation = conversation or Conversation.of_one(target.material, request, self.settings.chat)
        payload = msgspec.json.encode(
            {
                "model": target.model,
                **conversation.ask(request),
                "max_tokens": request.output_tokens,
                "temperature": 0,
                "ignore_eos": True,
                "stream": True,
                "stream_options": {"include_usage": True},
                **self.settings.extra_body,
            }
        )
        answer = Answer(on_chunk, keep_text=conversation.goes_on)
        if due_s is not None:
            await asyncio.sleep(due_s - time.perf_counter())
        await self._turns.take()
        outcome, error, ended_s = OK, "", 0.0
        sent_s = time.perf_counter()
        on_sent()
        try:
            done = await self._peer.post(
                self._path, self._headers, payload, answer.take, self.settings.timeout_s
            )
            ended_s = done.ended_s
            if done.status != 200:
                outcome, error = f"http {done.status}", _reason(done.refusal)
            elif answer.error is not None:
                outcome, error = "error in stream", _reason(msgspec.json.encode(answer.error))
            elif not answer.finished:
                outcome = "stream stopped"
                error = f"after {len(answer.chunks_s)} chunks, without a finish_reason"
        except Silence as problem:
            outcome, error = "timeout", str(problem)
        except NoConnectionError as problem:
            outcome, error = "no connection", str(problem)
        except OSError as problem:
            outcome, error = "stream stopped", str(problem) or type(problem).__name__
        except (msgspec.MsgspecError, ValueError) as problem:
            outcome, error = "unreadable answer", str(problem)
        usage = answer.usage
        record = Record(
            number=request.number,
            asked_input=conversation.tokens + request.input_tokens,
            asked_output=request.output_tokens,
            sent_s=sent_s,
            ended_s=ended_s or time.perf_counter(),
            chunks_s=answer.chunks_s,
            input_tokens=usage.prompt_tokens if usage else conversation.tokens + request.input_tokens,
            output_tokens=usage.completion_tokens if usage else len(answer.chunks_s),
            outcome=outcome,
            error=error[:LONGEST_REASON],
            due_s=due_s,
            session=conversation.number,
            turn=conversation.turn,
        )
        conversation.answered(request, answer.text, record.output_tokens)
        return record


def _headers(api_key: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {api_key}"} if api_key else {}


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
