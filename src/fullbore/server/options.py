"""The fields that chat and completions share, checked once, for every endpoint."""

from dataclasses import dataclass
from typing import Literal

from fullbore.engine.messages import Sampling
from fullbore.server.errors import invalid, unsupported
from fullbore.server.fields import Fields, show
from fullbore.server.limits import Limits
from fullbore.server.unsupported import refuse_unsupported

Style = Literal["chat", "completions"]
SEEDS = (-(2**63), 2**63 - 1)
COMPLETION_TOKENS = 16  # what OpenAI's completions endpoint generates unless told


@dataclass(frozen=True, slots=True)
class ModelFacts:
    """What of the loaded model decides whether a request can be served."""

    vocab_size: int
    max_model_len: int  # prompt and answer together, in tokens


@dataclass(frozen=True, slots=True)
class Options:
    """How to answer, whatever the prompt was."""

    sampling: Sampling
    max_tokens: int | None  # None: as far as the context goes
    n: int
    stop: tuple[str, ...]
    include_stop: bool
    stream: bool
    include_usage: bool
    return_token_ids: bool
    salt: str


def read_options(fields: Fields, style: Style, model: ModelFacts, limits: Limits) -> Options:
    """Every shared field of a request body, checked.

    Raises ApiError 400 for the first that is wrong or not supported.
    """
    refuse_unsupported(fields)
    stream = fields.boolean("stream", False)
    max_tokens = _max_tokens(fields)
    return Options(
        sampling=_sampling(fields, style, max_tokens, model, limits),
        max_tokens=COMPLETION_TOKENS if max_tokens is None and style == "completions" else max_tokens,
        n=fields.integer("n", 1, 1, limits.n),
        stop=_stop(fields, limits),
        include_stop=fields.boolean("include_stop_str_in_output", False),
        stream=stream,
        include_usage=_include_usage(fields, stream),
        return_token_ids=fields.boolean("return_token_ids", False),
        salt=_salt(fields, limits),
    )


def _max_tokens(fields: Fields) -> int | None:
    older = fields.integer("max_tokens", None, 1, 2**31 - 1)
    newer = fields.integer("max_completion_tokens", None, 1, 2**31 - 1)
    return older if newer is None else newer


def _sampling(
    fields: Fields, style: Style, max_tokens: int | None, model: ModelFacts, limits: Limits
) -> Sampling:
    top_k = fields.integer("top_k", 0, -1, 2**31 - 1)
    return Sampling(
        temperature=fields.number("temperature", 1.0, 0, 2),
        top_p=fields.number("top_p", 1.0, 0, 1, above=True),
        top_k=min(max(top_k, 0), model.vocab_size),
        min_p=fields.number("min_p", 0.0, 0, 1),
        seed=fields.integer("seed", None, *SEEDS),
        presence_penalty=fields.number("presence_penalty", 0.0, -2, 2),
        frequency_penalty=fields.number("frequency_penalty", 0.0, -2, 2),
        repetition_penalty=fields.number("repetition_penalty", 1.0, 0, 100, above=True),
        logit_bias=_logit_bias(fields, model, limits),
        logprobs=_logprobs(fields, style, limits),
        min_tokens=_min_tokens(fields, max_tokens),
        stop_token_ids=_stop_token_ids(fields, model, limits),
        ignore_eos=fields.boolean("ignore_eos", False),
    )


def _min_tokens(fields: Fields, max_tokens: int | None) -> int:
    least = fields.integer("min_tokens", 0, 0, 2**31 - 1)
    if least and max_tokens is None:
        raise invalid(f"min_tokens is {least} without max_tokens; give both", fields.path("min_tokens"))
    if max_tokens is not None and least > max_tokens:
        message = f"min_tokens is {least}, expected at most max_tokens, {max_tokens}"
        raise invalid(message, fields.path("min_tokens"))
    return least


def _logprobs(fields: Fields, style: Style, limits: Limits) -> int:
    """-1 none, else how many alternatives are told beside the chosen token."""
    if style == "completions":
        count = fields.integer("logprobs", None, 0, limits.top_logprobs)
        if count is not None and fields.get("echo") is True:
            raise unsupported("logprobs", "logprobs together with echo")
        return -1 if count is None else count
    wanted = fields.boolean("logprobs", False)
    count = fields.integer("top_logprobs", None, 0, limits.top_logprobs)
    if count is not None and not wanted:
        raise invalid("top_logprobs needs logprobs to be true", fields.path("top_logprobs"))
    return (count or 0) if wanted else -1


def _logit_bias(fields: Fields, model: ModelFacts, limits: Limits) -> dict[int, float]:
    given = fields.mapping("logit_bias", limits.logit_bias)
    if given is None:
        return {}
    entries = Fields(given, fields.path("logit_bias"))
    bias: dict[int, float] = {}
    for key in given:
        if not (key.isascii() and key.isdigit()) or len(key) > 9 or int(key) >= model.vocab_size:
            message = f"logit_bias has the key {show(key)}, expected a token id below {model.vocab_size}"
            raise invalid(message, fields.path("logit_bias"))
        bias[int(key)] = entries.number(key, 0.0, -100, 100)
    return bias


def _stop(fields: Fields, limits: Limits) -> tuple[str, ...]:
    value = fields.get("stop")
    if isinstance(value, str):
        value = [value]
    if value is None:
        return ()
    if not isinstance(value, list) or not all(isinstance(text, str) for text in value):
        raise fields.wrong("stop", "a string or an array of strings")
    if len(value) > limits.stop_strings:
        raise fields.wrong("stop", f"at most {limits.stop_strings} strings")
    for text in value:
        if not 1 <= len(text) <= limits.stop_chars:
            message = f"stop holds a string of {len(text)} characters, expected 1 to {limits.stop_chars}"
            raise invalid(message, fields.path("stop"))
    return tuple(value)


def _stop_token_ids(fields: Fields, model: ModelFacts, limits: Limits) -> tuple[int, ...]:
    ids = fields.array("stop_token_ids", limits.stop_token_ids)
    return () if ids is None else tuple(token_ids(ids, fields.path("stop_token_ids"), model))


def token_ids(values: list[object], path: str, model: ModelFacts) -> list[int]:
    """``values`` as token ids, or a 400 that names the first that is none."""
    for position, value in enumerate(values):
        if type(value) is not int or not 0 <= value < model.vocab_size:
            expected = f"a token id from 0 to {model.vocab_size - 1}"
            raise invalid(f"{path}[{position}] is {show(value)}, expected {expected}", path)
    return values  # type: ignore[return-value]


def _include_usage(fields: Fields, stream: bool) -> bool:
    given = fields.mapping("stream_options", 16)
    if given is None:
        return False
    if not stream:
        raise invalid("stream_options needs stream to be true", fields.path("stream_options"))
    nested = Fields(given, fields.path("stream_options"))
    include = nested.boolean("include_usage", False)
    nested.boolean(
        "include_obfuscation", False
    )  # padding against traffic analysis; OpenAI's clients may send it
    fields.also_unread(nested)
    return include


def _salt(fields: Fields, limits: Limits) -> str:
    salt = fields.string("cache_salt", "", limits.salt_chars)
    if not salt.isprintable():
        raise invalid(
            "cache_salt holds control characters, expected printable ones", fields.path("cache_salt")
        )
    return salt
