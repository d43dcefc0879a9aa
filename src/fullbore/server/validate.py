"""Request bodies -> requests whose every field was checked. All endpoints come through here."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from fullbore.server.conversation import read_messages
from fullbore.server.errors import ApiError, context_too_long, invalid, model_not_found
from fullbore.server.fields import Fields
from fullbore.server.limits import Limits
from fullbore.server.options import ModelFacts, Options, read_options, token_ids
from fullbore.server.template import RESERVED
from fullbore.server.unsupported import refuse_unsupported


@dataclass(frozen=True, slots=True)
class Conversation:
    """What the chat template is rendered from."""

    messages: list[dict[str, str]]
    add_generation_prompt: bool
    continue_final_message: bool
    template_kwargs: Mapping[str, object]

    def chars(self, of_assistant: bool) -> int:
        """Characters of the assistant's messages (a template may drop their thoughts), or of all others."""
        return sum(
            len(message["content"]) + len(message.get("reasoning_content", ""))
            for message in self.messages
            if (message["role"] == "assistant") == of_assistant
        )


@dataclass(frozen=True, slots=True)
class ChatRequest:
    model: str
    conversation: Conversation
    options: Options


@dataclass(frozen=True, slots=True)
class CompletionRequest:
    model: str
    prompts: tuple[str | list[int], ...]
    options: Options
    echo: bool


@dataclass(frozen=True, slots=True)
class TokenizeRequest:
    text: str | Conversation


@dataclass(frozen=True, slots=True)
class DetokenizeRequest:
    tokens: list[int]


@dataclass(frozen=True, slots=True)
class Validator:
    """The checks of one server: its limits, its names, and whether an unknown field is refused."""

    limits: Limits
    served: tuple[str, ...]
    strict: bool

    def chat(self, body: Mapping[str, object], model: ModelFacts) -> tuple[ChatRequest, list[str]]:
        """The request, and the paths of its fields that are unknown and ignored."""
        fields = Fields(body)
        name = self._model(fields)
        conversation = _conversation(fields, self.limits)
        request = ChatRequest(name, conversation, read_options(fields, "chat", model, self.limits))
        return request, self._ignored(fields)

    def completion(
        self, body: Mapping[str, object], model: ModelFacts
    ) -> tuple[CompletionRequest, list[str]]:
        fields = Fields(body)
        name = self._model(fields)
        options = read_options(fields, "completions", model, self.limits)
        prompts = _prompts(fields, model, self.limits)
        if len(prompts) * options.n > self.limits.sequences:
            message = (
                f"{len(prompts)} prompts with n={options.n} make more than {self.limits.sequences} answers"
            )
            raise invalid(message, "n")
        request = CompletionRequest(name, prompts, options, fields.boolean("echo", False))
        return request, self._ignored(fields)

    def tokenize(self, body: Mapping[str, object]) -> tuple[TokenizeRequest, list[str]]:
        fields = Fields(body)
        self._model(fields)
        refuse_unsupported(fields)
        text: str | Conversation | None = fields.string("prompt", None)
        if text is None:
            text = _conversation(fields, self.limits)
        return TokenizeRequest(text), self._ignored(fields)

    def detokenize(
        self, body: Mapping[str, object], model: ModelFacts
    ) -> tuple[DetokenizeRequest, list[str]]:
        fields = Fields(body)
        self._model(fields)
        given = fields.array("tokens", model.max_model_len)
        if given is None:
            raise invalid("tokens is missing, expected an array of token ids", "tokens", "missing_field")
        return DetokenizeRequest(token_ids(given, "tokens", model)), self._ignored(fields)

    def _model(self, fields: Fields) -> str:
        name = fields.string("model", None)
        if name is None:
            return self.served[0]
        if name not in self.served:
            raise model_not_found(name[: self.limits.name_chars], self.served[0])
        return name

    def _ignored(self, fields: Fields) -> list[str]:
        unread = fields.unread()
        if unread and self.strict:
            name = unread[0][: self.limits.name_chars]
            raise invalid(f"{name!r} is no field of this endpoint (--strict)", name, "unknown_field")
        return unread


def _conversation(fields: Fields, limits: Limits) -> Conversation:
    messages = read_messages(fields, limits)
    add = fields.boolean("add_generation_prompt", None)
    resume = fields.boolean("continue_final_message", False)
    if add and resume:
        message = "continue_final_message and add_generation_prompt are both true, expected at most one"
        raise invalid(message, "continue_final_message")
    if resume and messages[-1]["role"] != "assistant":
        message = (
            f"continue_final_message needs a last message of the assistant, not of {messages[-1]['role']!r}"
        )
        raise invalid(message, "continue_final_message")
    kwargs = fields.mapping("chat_template_kwargs", limits.template_kwargs) or {}
    for name, value in kwargs.items():
        if name in RESERVED or name.startswith("_") or not name.isidentifier():
            message = f"chat_template_kwargs may not set {name[:60]!r}"
            raise invalid(message, "chat_template_kwargs")
        if not isinstance(value, str | int | float | bool | None):
            message = f"chat_template_kwargs.{name[:60]} is not a string, number, boolean or null"
            raise invalid(message, "chat_template_kwargs")
        if isinstance(value, str) and len(value) > limits.template_kwarg_chars:
            message = f"chat_template_kwargs.{name[:60]} has {len(value)} characters"
            raise invalid(
                f"{message}, expected at most {limits.template_kwarg_chars}", "chat_template_kwargs"
            )
    return Conversation(messages, (not resume) if add is None else add, resume, kwargs)


def _prompts(fields: Fields, model: ModelFacts, limits: Limits) -> tuple[str | list[int], ...]:
    """A string, an array of strings, of token ids, or of arrays of token ids."""
    value = fields.get("prompt")
    if value is None:
        raise invalid("prompt is missing, expected a string or token ids", "prompt", "missing_field")
    if isinstance(value, str):
        return (value,)
    if not isinstance(value, list):
        raise fields.wrong("prompt", "a string, an array of strings, of token ids, or of arrays of token ids")
    if not value:
        raise invalid("prompt is empty, expected at least one", "prompt")
    check = _shape(value)
    if check is None:
        return (_ids(value, "prompt", model),)
    if len(value) > limits.prompts:
        raise fields.wrong("prompt", f"at most {limits.prompts} prompts")
    return tuple(check(each, f"prompt[{index}]", model) for index, each in enumerate(value))


def _shape(value: list[object]) -> Callable[[object, str, ModelFacts], str | list[int]] | None:
    """How each entry is read; None when the entries are token ids of one prompt."""
    if isinstance(value[0], str):
        return _text
    return _ids if isinstance(value[0], list) else None


def _text(value: object, path: str, model: ModelFacts) -> str:
    if not isinstance(value, str):
        raise invalid(f"{path} is not a string, as prompt[0] is", "prompt")
    return value


def _ids(value: object, path: str, model: ModelFacts) -> list[int]:
    if not isinstance(value, list):
        raise invalid(f"{path} is not an array of token ids, as prompt[0] is", "prompt")
    if not value:
        raise invalid(f"{path} is empty, expected at least one token id", "prompt")
    if len(value) >= model.max_model_len:
        raise too_many_tokens(len(value), model, "prompt")
    token_ids(value, "prompt", model)
    return value


def too_many_tokens(count: int, model: ModelFacts, param: str) -> ApiError:
    message = (
        f"the prompt has {count} tokens; the context of this model is {model.max_model_len} tokens, "
        "prompt and answer together, so a prompt may have at most "
        f"{model.max_model_len - 1} (--max-model-len)"
    )
    return context_too_long(message, param)
