"""What the routes share: the engine, the tokenizer, and how a checked request becomes a reply."""

import asyncio
import time
import uuid
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from typing import Literal, TypeVar
from urllib.parse import quote

import msgspec

from fullbore.server.answers import Answers, Engine, Job
from fullbore.server.chat import ChatFormat, Label
from fullbore.server.choice import Choice
from fullbore.server.completions import CompletionFormat
from fullbore.server.errors import ApiError, context_too_long, invalid, unavailable
from fullbore.server.lifecycle import Lifecycle
from fullbore.server.limits import Limits
from fullbore.server.metrics import ServerMetrics
from fullbore.server.options import SEEDS, ModelFacts, Options
from fullbore.server.reply import Format, Reply
from fullbore.server.template import TemplateError
from fullbore.server.tokenizer import Tokenizer
from fullbore.server.validate import ChatRequest, CompletionRequest, Conversation, Validator, too_many_tokens

R = TypeVar("R")
INLINE_CHARS = 2048  # a text that is encoded in less time than a thread takes to be asked


@dataclass(frozen=True)
class Settings:
    """What the operator chose for the HTTP side."""

    served: tuple[str, ...]  # names of the model, the first is the one that answers carry
    limits: Limits = field(default_factory=Limits)
    host: str = "127.0.0.1"
    strict: bool = False
    reasoning: bool = True  # split <think> ... </think> from the answer
    allowed_origins: tuple[str, ...] = ()
    vllm_metrics: bool = False  # every metric under vllm: too
    shown: dict[str, object] = field(default_factory=dict)  # options of the engine, for /server_info


class Service:
    """One model behind HTTP. ``engine`` is None until it has loaded."""

    def __init__(self, settings: Settings, tokenizer: Tokenizer) -> None:
        self.settings = settings
        self.tokenizer = tokenizer
        self.lifecycle = Lifecycle()
        self.metrics = ServerMetrics(settings.served[0], settings.vllm_metrics)
        self.validator = Validator(settings.limits, settings.served, settings.strict)
        self.engine: Engine | None = None
        self.loaded = 0.0  # share of the model's bytes
        self.created = int(time.time())
        self._threads = ThreadPoolExecutor(max_workers=2, thread_name_prefix="tokenise")

    def attach(self, engine: Engine) -> None:
        """The engine has loaded: requests may come."""
        self.engine = engine
        self.metrics.loaded(engine.ready)
        self.lifecycle.became_ready()

    def admit(self) -> tuple[Engine, ModelFacts]:
        """The engine, or ApiError 503 while it cannot take a request."""
        refusal = self.lifecycle.refusal()
        if refusal is None and self.engine is not None and not self.engine.alive:
            refusal = unavailable("the engine died and is being restarted; try again", "engine_died")
        if refusal is not None or self.engine is None:
            raise refusal or unavailable("the model is still loading; see GET /ready", "loading")
        return self.engine, ModelFacts(self.engine.ready.vocab_size, self.engine.ready.max_model_len)

    def admit_generation(self) -> ModelFacts:
        """As ``admit``; a refusal is counted."""
        try:
            return self.admit()[1]
        except ApiError as error:
            self.metrics.rejected(error.code or "other")
            raise

    def health(self) -> tuple[bool, str]:
        """Whether work gets done, and a word for it: progress counts, not a process that merely exists."""
        if self.engine is None:
            return True, self.lifecycle.state
        if not self.engine.alive:
            return False, "engine dead"
        still_s = time.monotonic() - self.engine.last_progress
        if still_s > self.settings.limits.stalled_s:
            return False, f"no step for {still_s:.0f} s"
        return True, "ok" if self.lifecycle.state == "ready" else self.lifecycle.state

    async def chat(self, request: ChatRequest, ignored: list[str]) -> Reply:
        engine, model = self.admit()
        ids = fitting(await self.encode_chat(request.conversation, model), model, "messages")
        inside = self.tokenizer.starts_in_reasoning(ids) if self.settings.reasoning else None
        form = ChatFormat(self._label("chatcmpl", request.model), request.options, self.tokenizer, ids)
        return self._reply(engine, model, [ids], request.options, form, inside, ignored)

    async def completion(self, request: CompletionRequest, ignored: list[str]) -> Reply:
        engine, model = self.admit()
        texts = [prompt for prompt in request.prompts if isinstance(prompt, str)]
        encoded = iter(await self.encode_texts(texts, model))
        prompts = [next(encoded) if isinstance(prompt, str) else prompt for prompt in request.prompts]
        for ids in prompts:
            fitting(ids, model, "prompt")
        options = request.options
        echoes, ids_of_choice = [], []
        for prompt, ids in zip(request.prompts, prompts, strict=True):
            text = ""
            if request.echo:
                text = prompt if isinstance(prompt, str) else self.tokenizer.decode(ids)
            echoes += [text] * options.n
            ids_of_choice += [ids] * options.n
        label = self._label("cmpl", request.model)
        form = CompletionFormat(label, options, self.tokenizer, echoes, ids_of_choice)
        return self._reply(engine, model, prompts, options, form, None, ignored)

    async def encode_texts(self, texts: Sequence[str], model: ModelFacts) -> list[list[int]]:
        for text in texts:
            self._refuse_by_chars(len(text), model, "prompt")
        # Their sum decides: a thousand short prompts hold up the loop as one long one does.
        return await self._in_thread(sum(map(len, texts)), lambda: list(map(self.tokenizer.encode, texts)))

    async def encode_chat(self, conversation: Conversation, model: ModelFacts) -> list[int]:
        others, own = conversation.chars(of_assistant=False), conversation.chars(of_assistant=True)
        self._refuse_by_chars(others, model, "messages")
        # Thoughts that the template drops count for nothing, but somebody has to read them first.
        self._refuse_by_chars(own // 4, model, "messages")
        try:
            return await self._in_thread(
                others + own,
                lambda: self.tokenizer.encode_chat(
                    conversation.messages,
                    add_generation_prompt=conversation.add_generation_prompt,
                    continue_final_message=conversation.continue_final_message,
                    template_kwargs=conversation.template_kwargs,
                ),
            )
        except TemplateError as error:
            raise invalid(str(error), "messages", "template_error") from error

    def close(self) -> None:
        self._threads.shutdown(wait=False, cancel_futures=True)

    async def _in_thread(self, chars: int, work: Callable[[], R]) -> R:
        """Long texts are encoded beside the event loop, so that the streams of others go on."""
        if chars <= INLINE_CHARS:
            return work()
        return await asyncio.get_running_loop().run_in_executor(self._threads, work)

    def _refuse_by_chars(self, chars: int, model: ModelFacts, param: str) -> None:
        """What cannot fit however well it is encoded is not encoded at all."""
        most = model.max_model_len * self.tokenizer.max_chars_per_token
        if chars > most:
            message = (
                f"{param} has {chars} characters; {model.max_model_len} tokens of context hold at most "
                f"{most} (--max-model-len)"
            )
            raise context_too_long(message, param)

    def _reply(
        self,
        engine: Engine,
        model: ModelFacts,
        prompts: Sequence[list[int]],
        options: Options,
        form: Format,
        inside_reasoning: bool | None,
        ignored: list[str],
    ) -> Reply:
        def answers() -> Answers:
            jobs = [
                self._job(prompt, number, model, options, first * options.n + number, inside_reasoning)
                for first, prompt in enumerate(prompts)
                for number in range(options.n)
            ]
            unsent = self.settings.limits.unsent_events
            return Answers(engine, jobs, options.n, options.salt, self.metrics, unsent)

        headers = ignored_header(ignored, self.settings.limits)
        if engine.ready.emulated:
            headers["x-fullbore-emulated"] = engine.ready.emulated
        return Reply(
            answers,
            form,
            options.stream,
            options.include_usage,
            self.lifecycle,
            self.settings.limits,
            headers,
        )

    def _job(
        self,
        prompt: list[int],
        number: int,
        model: ModelFacts,
        options: Options,
        index: int,
        inside: bool | None,
    ) -> Job:
        room = model.max_model_len - len(prompt)
        most = room if options.max_tokens is None else min(options.max_tokens, room)
        sampling = options.sampling
        if sampling.seed is not None and number:  # else all n answers would be the same
            low, high = SEEDS
            sampling = msgspec.structs.replace(
                sampling, seed=low + (sampling.seed + number - low) % (high - low + 1)
            )
        if sampling.min_tokens > most:
            sampling = msgspec.structs.replace(sampling, min_tokens=most)
        choice = Choice(index, self.tokenizer, replace(options, sampling=sampling), inside)
        return Job(prompt, most, sampling, choice)

    def _label(self, kind: Literal["chatcmpl", "cmpl"], model: str) -> Label:
        fingerprint = self.engine.ready.fingerprint if self.engine is not None else ""
        return Label(f"{kind}-{uuid.uuid4().hex}", int(time.time()), model, f"fp_{fingerprint[:16]}")


def fitting(ids: list[int], model: ModelFacts, param: str) -> list[int]:
    """``ids``, if there is at least one and room for an answer of at least one token."""
    if not ids:
        raise invalid(f"{param} has no tokens, expected at least one", param)
    if len(ids) >= model.max_model_len:
        raise too_many_tokens(len(ids), model, param)
    return ids


def ignored_header(ignored: list[str], limits: Limits) -> dict[str, str]:
    """``x-fullbore-ignored-fields``: what the request asked for that nobody here knows."""
    if not ignored:
        return {}
    names = [quote(name[:100], safe="[]._-") for name in ignored[: limits.ignored_fields]]
    if len(ignored) > len(names):
        names.append(f"and-{len(ignored) - len(names)}-more")
    return {"x-fullbore-ignored-fields": ", ".join(names)}
