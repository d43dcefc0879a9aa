"""Chat templates: from the model's folder only, rendered by minijinja.

minijinja is an interpreter in Rust with a budget of instructions; it has no way to Python's objects beyond
the plain data that is handed in. The environment is the one that Hugging Face templates are written for:
``trim_blocks``, ``lstrip_blocks``, ``raise_exception``, ``strftime_now``, a ``tojson`` that escapes no HTML.
"""

import json
import re
from collections.abc import Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any, NoReturn

import minijinja

from fullbore.errors import CheckpointError, FullboreError
from fullbore.model.files import file_in

TEMPLATE_FILE = "chat_template.jinja"
TEMPLATE_BYTES = 1 << 20  # published templates have 1 to 20 KB
FUEL = 5_000_000  # instructions for one rendering; a long conversation needs some ten thousand

ROLES = ("system", "developer", "user", "assistant", "tool")

# Names that the server sets or that templates call; a request may not put its own in their place.
RESERVED = frozenset(
    {
        *("messages", "tools", "documents", "add_generation_prompt", "continue_final_message"),
        *("bos_token", "eos_token", "chat_template", "template", "tokenize", "padding", "truncation"),
        *("max_length", "return_dict", "return_tensors", "return_assistant_tokens_mask", "tokenizer_kwargs"),
        *("raise_exception", "strftime_now", "namespace", "range", "dict", "loop", "self"),
    }
)

_UNSAFE = (
    (re.compile(r"__\w+__"), "names a Python internal"),
    (re.compile(r"\{%[-+]?\s*(?:include|import|from|extends)\b"), "loads another template"),
)
# `{% generation %}` marks what a trainer computes a loss on; for serving it is a block like any other.
_GENERATION = (
    (re.compile(r"\{%([-+]?)\s*generation\s*([-+]?)%\}"), r"{%\1 if true \2%}"),
    (re.compile(r"\{%([-+]?)\s*endgeneration\s*([-+]?)%\}"), r"{%\1 endif \2%}"),
)


class TemplateError(FullboreError):
    """A conversation that the model's chat template cannot render; the request's fault (400)."""


class ChatTemplate:
    """A compiled template. Rendering is safe from several threads at once."""

    def __init__(self, source: str, origin: Path, bos_token: str, eos_token: str) -> None:
        """``origin`` is named in errors. CheckpointError: the template is unsafe, or not one."""
        self.source = source
        if len(source.encode("utf-8", "replace")) > TEMPLATE_BYTES:
            raise CheckpointError(f"{origin}: the chat template is larger than {TEMPLATE_BYTES} bytes")
        for pattern, reason in _UNSAFE:
            found = pattern.search(source)
            if found:
                raise CheckpointError(
                    f"{origin}: the chat template {reason} ({found.group()!r}), which no template needs; "
                    "get the model from its publisher, or mend the template"
                )
        for pattern, plain in _GENERATION:
            source = pattern.sub(plain, source)
        self._environment = minijinja.Environment(
            trim_blocks=True, lstrip_blocks=True, fuel=FUEL, auto_escape_callback=lambda name: None
        )
        self._environment.add_filter("tojson", _tojson)
        self._environment.add_global("raise_exception", _raise_exception)
        self._environment.add_global("strftime_now", lambda form: datetime.now().strftime(form))
        self._environment.add_global("bos_token", bos_token)
        self._environment.add_global("eos_token", eos_token)
        self._environment.add_global("tools", None)
        self._environment.add_global("documents", None)
        try:
            self._environment.add_template("chat", source)
        except minijinja.TemplateError as cause:
            raise CheckpointError(
                f"{origin}: the chat template is no template (line {cause.line}): {cause.message}"
            ) from cause
        try:
            self.render([{"role": "user", "content": "1"}], add_generation_prompt=True)
        except TemplateError as cause:
            # Without a cause it is the template's own refusal, for instance of a missing system message.
            if cause.__cause__ is not None:
                raise CheckpointError(f"{origin}: {cause}") from cause

    def render(
        self, messages: Sequence[Mapping[str, Any]], add_generation_prompt: bool, **variables: Any
    ) -> str:
        """The prompt as text. ``messages`` and ``variables`` are plain data; the template may change them.

        TemplateError carries the template's own message, or what went wrong in it.
        """
        try:
            rendered: str = self._environment.render_template(
                "chat", messages=messages, add_generation_prompt=add_generation_prompt, **variables
            )
        except TemplateError:
            raise
        except minijinja.TemplateError as cause:
            raise TemplateError(f"the chat template failed in line {cause.line}: {cause.message}") from cause
        except Exception as cause:  # a template may call any method of the data in any wrong way
            raise TemplateError(f"the chat template failed: {type(cause).__name__}: {cause}") from cause
        return rendered


def find_template(folder: Path, tokenizer_config: Mapping[str, Any]) -> tuple[str, Path] | None:
    """The source of a model's chat template and the file it is in; None: the model has none.

    ``chat_template.jinja`` goes before the field ``chat_template`` of tokenizer_config.json, which is a
    string or a list of named templates, of which ``default`` is taken.
    """
    path = file_in(folder, TEMPLATE_FILE)
    if path.exists():
        return read_template(path)
    path = folder / "tokenizer_config.json"
    field = tokenizer_config.get("chat_template")
    if isinstance(field, list):
        named = {item.get("name"): item.get("template") for item in field if isinstance(item, dict)}
        field = named.get("default")
        if field is None:
            raise CheckpointError(
                f"{path}: chat_template lists {sorted(map(str, named))}, none of them named 'default'"
            )
    if field is None:
        return None
    if not isinstance(field, str):
        raise CheckpointError(f"{path}: chat_template is a {type(field).__name__}, expected a string")
    return field, path


def read_template(path: Path) -> tuple[str, Path]:
    """The source of the template in a file, and that file."""
    try:
        return path.read_text(encoding="utf-8"), path
    except (OSError, UnicodeDecodeError) as cause:
        raise CheckpointError(f"{path} cannot be read as UTF-8 text: {cause}") from cause


def content_text(content: Any) -> str:
    """The text of a message's ``content``: a string, or the texts of its parts, joined."""
    if isinstance(content, str):
        return content
    if not isinstance(content, list | tuple):
        raise TemplateError(f"content is a {type(content).__name__}, expected a string or a list of parts")
    texts = []
    for part in content:
        kind = part.get("type") if isinstance(part, Mapping) else None
        if kind != "text":
            raise TemplateError(f"content part of type {kind!r} is unsupported: this model reads text only")
        if not isinstance(part.get("text"), str):
            raise TemplateError("a content part of type 'text' needs a string in its field 'text'")
        texts.append(part["text"])
    return "".join(texts)


def check_conversation(
    messages: Sequence[Mapping[str, Any]],
    add_generation_prompt: bool,
    continue_final_message: bool,
    template_kwargs: Mapping[str, Any],
) -> None:
    """TemplateError for what no template could render."""
    if not messages:
        raise TemplateError("messages is empty; a conversation has at least one")
    for message in messages:
        if message.get("role") not in ROLES:
            raise TemplateError(f"role {message.get('role')!r} is not one of {', '.join(ROLES)}")
    if continue_final_message and add_generation_prompt:
        raise TemplateError(
            "continue_final_message and add_generation_prompt exclude each other: the first goes on with the "
            "last message, the second begins a new one"
        )
    if continue_final_message and messages[-1]["role"] != "assistant":
        raise TemplateError(
            f"continue_final_message needs a last message of role assistant, not {messages[-1]['role']}"
        )
    reserved = sorted(RESERVED & set(template_kwargs))
    if reserved:
        raise TemplateError(f"chat_template_kwargs may not set {', '.join(reserved)}")


def _raise_exception(message: object) -> NoReturn:
    """What templates call to refuse a conversation."""
    raise TemplateError(str(message))


def _tojson(
    value: Any,
    indent: int | None = None,
    separators: Sequence[str] | None = None,
    sort_keys: bool = False,
    ensure_ascii: bool = False,
) -> str:
    """JSON as Hugging Face renders it: nothing escaped for HTML."""
    if ensure_ascii:  # would write disguised characters as escapes that nobody turns back
        raise TemplateError("tojson(ensure_ascii=true) is unsupported in a chat template")
    pair = None if separators is None else (separators[0], separators[1])
    return json.dumps(value, ensure_ascii=False, indent=indent, separators=pair, sort_keys=sort_keys)
