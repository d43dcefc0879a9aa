"""Text to token ids and back, for one model folder, with nothing a client writes becoming a control token.

Two things are kept apart that tokenizers libraries do in one go: finding added tokens (only in what the chat
template wrote, see ``control_tokens``) and encoding plain text (by a copy of the tokenizer that knows none).
Ids are decoded byte by byte, which is exact because the DeepSeek family uses byte-level BPE.
"""

import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import tokenizers

from fullbore.errors import CheckpointError
from fullbore.model.files import file_in, read_object
from fullbore.server.control_tokens import AddedToken, ControlTokens, Disguise, strings_in
from fullbore.server.template import (
    ChatTemplate,
    TemplateError,
    check_conversation,
    content_text,
    find_template,
    read_template,
)

TOKENIZER_BYTES = 256 << 20  # that of DeepSeek-V3 has 8 MB
THINK_OPEN, THINK_CLOSE = "<think>", "</think>"


class Tokenizer:
    """The tokenizer of a model. ``encode`` and ``encode_chat`` release the interpreter lock while they work
    on long texts (about 1 to 5 s for a megabyte), so call them in a thread."""

    def __init__(
        self,
        plain: tokenizers.Tokenizer,
        added: Sequence[AddedToken],
        bos_token: AddedToken | None,
        add_bos: bool,
        template: ChatTemplate | None,
    ) -> None:
        self._plain = plain
        self._added = {token.id: token for token in added}
        self._control = ControlTokens(added, shown=(THINK_OPEN, THINK_CLOSE))
        self._template = template
        self._bos = [bos_token.id] if bos_token and add_bos else []
        by_text = {token.text: token.id for token in added}
        self._think_open, self._think_close = by_text.get(THINK_OPEN), by_text.get(THINK_CLOSE)
        # A thought is found by its tags, so they stay in the text even where they are marked special.
        tags = {self._think_open, self._think_close}
        self._skipped = frozenset(token.id for token in added if token.special and token.id not in tags)
        vocabulary = plain.get_vocab(with_added_tokens=False)
        self.bos_token_id = bos_token.id if bos_token else None
        self.max_chars_per_token = max(map(len, (*vocabulary, *by_text)), default=1)

    @classmethod
    def load(cls, folder: Path, vocab_size: int, template_file: Path | None = None) -> "Tokenizer":
        """Reads tokenizer.json, tokenizer_config.json and the chat template, if there is one.

        ``vocab_size``: rows of the model's embedding. ``template_file``: a chat template to use and not the
        model's own. CheckpointError names the file and what is wrong in it.
        """
        path = file_in(folder, "tokenizer.json")
        data = read_object(path, TOKENIZER_BYTES, CheckpointError)
        config_path = file_in(folder, "tokenizer_config.json")
        config = read_object(config_path, error=CheckpointError)

        decoder = data.get("decoder")
        if not isinstance(decoder, dict) or decoder.get("type") != "ByteLevel":
            kind = decoder.get("type") if isinstance(decoder, dict) else decoder
            raise CheckpointError(f"{path}: decoder {kind!r}, expected 'ByteLevel' (byte-level BPE)")
        added = _added_tokens(data.get("added_tokens") or [], path)
        # A file may also ask for truncation, padding or tokens around every text; none of it is wanted.
        bare = {**data, "added_tokens": [], "post_processor": None, "truncation": None, "padding": None}
        try:
            plain = tokenizers.Tokenizer.from_str(json.dumps(bare))
        except Exception as cause:  # the library raises bare Exception for a bad file
            raise CheckpointError(f"{path} is not a tokenizer: {cause}") from cause

        ids = [*plain.get_vocab(with_added_tokens=False).values(), *(token.id for token in added)]
        largest = max(ids, default=-1)
        if not ids or largest >= vocab_size:
            raise CheckpointError(
                f"{path}: largest token id {largest}, but the model has vocab_size {vocab_size}; "
                "the tokenizer belongs to another model"
            )
        _check_unreachable(plain, added, path)

        bos = _named_token(config, "bos_token", added, config_path)
        eos = _named_token(config, "eos_token", added, config_path)
        add_bos = config.get("add_bos_token")
        if add_bos is None:
            add_bos = bos is not None and _first_of_template(data.get("post_processor")) == bos.text
        if add_bos and bos is None:
            raise CheckpointError(f"{config_path}: add_bos_token is true, but there is no bos_token")
        found = read_template(template_file) if template_file else find_template(folder, config)
        template = (
            ChatTemplate(*found, bos_token=bos.text if bos else "", eos_token=eos.text if eos else "")
            if found
            else None
        )
        return cls(plain, added, bos, bool(add_bos), template)

    @property
    def has_chat_template(self) -> bool:
        return self._template is not None

    def encode(self, text: str) -> list[int]:
        """Token ids of ``text`` as plain text, after the beginning-of-sequence token if one is configured."""
        return self._bos + self._encode_parts([text])

    def encode_chat(
        self,
        messages: Sequence[Mapping[str, Any]],
        add_generation_prompt: bool = True,
        continue_final_message: bool = False,
        template_kwargs: Mapping[str, Any] | None = None,
    ) -> list[int]:
        """Token ids of a conversation, control tokens only where the template put them.

        In an assistant's content the think tags stay tags, since templates look for them. The template
        decides on the beginning-of-sequence token. TemplateError: the conversation cannot be rendered.
        """
        kwargs = dict(template_kwargs or {})
        check_conversation(messages, add_generation_prompt, continue_final_message, kwargs)
        if self._template is None:
            raise TemplateError("this model has no chat template; use /v1/completions")
        try:
            texts = [*strings_in(messages), *strings_in(kwargs), self._template.source]
            disguise = Disguise(self._control, texts)
            hidden = [_hidden(message, disguise) for message in messages]
            kwargs = {key: _hidden_value(value, disguise, borders=False) for key, value in kwargs.items()}
            marker = disguise.spare()
        except ValueError as cause:
            raise TemplateError(f"the conversation cannot be encoded: {cause}") from cause
        if continue_final_message:
            # The blank after the marker tells whether the template strips what it is given.
            hidden[-1]["content"] = (hidden[-1].get("content") or "") + marker + " "
        rendered = self._template.render(hidden, add_generation_prompt, **kwargs)
        if continue_final_message:
            rendered = _cut_at(marker, rendered)
        parts = self._control.split(rendered)
        return self._encode_parts(
            [disguise.reveal(part) if isinstance(part, str) else part for part in parts]
        )

    def decode(self, ids: Iterable[int], skip_special: bool = True) -> str:
        """The text of ``ids``; bytes that are no UTF-8 become U+FFFD, ids without a token nothing."""
        return b"".join(self.token_bytes(id, skip_special) for id in ids).decode("utf-8", "replace")

    def token_bytes(self, id: int, skip_special: bool = False) -> bytes:
        """What one token adds to the text; it may begin or end inside a character."""
        if id in self._skipped and skip_special:
            return b""
        added = self._added.get(id)
        text: str | None = added.text if added else self._plain.id_to_token(id)
        if text is None:
            return b""
        try:
            return bytes(map(_BYTE_OF.__getitem__, text))
        except KeyError:  # an added token whose text is written as it is
            return text.encode()

    def starts_in_reasoning(self, ids: Sequence[int]) -> bool:
        """Whether a prompt ends inside an open thought.

        The last control token decides: what a template opens at the end, it opens after the last turn's. For
        a model whose tags are no tokens, the text after that control token is looked at.
        """
        tail: list[int] = []
        for id in reversed(ids):
            if id in self._added:
                if id in (self._think_open, self._think_close):
                    return id == self._think_open
                break
            tail.append(id)
        if self._think_open is not None:
            return False
        text = self.decode(reversed(tail))
        return text.rfind(THINK_OPEN) > text.rfind(THINK_CLOSE)

    def _encode_parts(self, parts: Sequence[str | int]) -> list[int]:
        texts = [part for part in parts if isinstance(part, str)]
        # The batch call is the one that releases the interpreter lock.
        encoded = iter(self._plain.encode_batch_fast(texts, add_special_tokens=False))
        ids: list[int] = []
        for part in parts:
            if isinstance(part, str):
                ids += next(encoded).ids
            else:
                ids.append(part)
        return ids


def _byte_of_char() -> dict[str, int]:
    """Byte-level BPE writes bytes as characters: printable Latin-1 as itself, the others from U+0100 on."""
    shown = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = [byte for byte in range(256) if byte not in shown]
    return {chr(byte): byte for byte in shown} | {chr(256 + n): byte for n, byte in enumerate(others)}


_BYTE_OF = _byte_of_char()


def _added_tokens(entries: Any, path: Path) -> list[AddedToken]:
    tokens: dict[str, AddedToken] = {}
    for entry in entries if isinstance(entries, list) else [entries]:
        if not isinstance(entry, dict):
            raise CheckpointError(f"{path}: an entry of added_tokens is {entry!r}, expected an object")
        id, text = entry.get("id"), entry.get("content")
        if not isinstance(id, int) or id < 0 or not isinstance(text, str) or not text:
            raise CheckpointError(
                f"{path}: added token with id {id!r} and content {text!r}, expected a number and a text"
            )
        if entry.get("single_word"):
            raise CheckpointError(f"{path}: added token {text!r} has single_word, which is unsupported")
        strips = bool(entry.get("lstrip")), bool(entry.get("rstrip"))
        if text in tokens:
            raise CheckpointError(f"{path}: added token {text!r} occurs twice")
        tokens[text] = AddedToken(id, text, bool(entry.get("special")), *strips)
    if len({token.id for token in tokens.values()}) != len(tokens):
        raise CheckpointError(f"{path}: two added tokens share one id")
    return list(tokens.values())


def _check_unreachable(plain: tokenizers.Tokenizer, added: Sequence[AddedToken], path: Path) -> None:
    """A special token that plain text encodes to could be written by any client."""
    special = [token for token in added if token.special]
    encoded = plain.encode_batch_fast([token.text for token in special], add_special_tokens=False)
    for token, encoding in zip(special, encoded, strict=True):
        if token.id in encoding.ids:
            raise CheckpointError(
                f"{path}: the special token {token.text!r} is also what plain text encodes to; "
                "its merges must not build it"
            )


def _named_token(
    config: Mapping[str, Any], name: str, added: Sequence[AddedToken], path: Path
) -> AddedToken | None:
    """``bos_token`` or ``eos_token``: a string, an object with ``content``, or null."""
    value = config.get(name)
    text = value.get("content") if isinstance(value, dict) else value
    if text is None:
        return None
    for token in added:
        if token.text == text:
            return token
    raise CheckpointError(f"{path}: {name} is {text!r}, which is no added token of tokenizer.json")


def _first_of_template(processor: Any) -> str | None:
    """The special token that a post-processor of tokenizer.json puts before a single text."""
    if not isinstance(processor, dict):
        return None
    if processor.get("type") == "Sequence":
        inner = processor.get("processors") or []
        return next((first for first in map(_first_of_template, inner) if first), None)
    single = processor.get("single")
    first = single[0] if isinstance(single, list) and single else None
    token = first.get("SpecialToken") if isinstance(first, dict) else None
    return token.get("id") if isinstance(token, dict) else None


def _hidden(message: Mapping[str, Any], disguise: Disguise) -> dict[str, Any]:
    """A copy of a message, its role as it is, everything else disguised."""
    hidden: dict[str, Any] = {}
    for key, value in message.items():
        if key == "role":
            hidden[key] = value
        elif key == "content" and value is not None:
            hidden[key] = disguise.hide(content_text(value), trusted=message["role"] == "assistant")
        else:
            hidden[disguise.hide(str(key), borders=False)] = _hidden_value(value, disguise, borders=True)
    return hidden


def _hidden_value(value: Any, disguise: Disguise, borders: bool) -> Any:
    if isinstance(value, str):
        return disguise.hide(value, borders=borders)
    if isinstance(value, Mapping):
        # Words of nested data (a tool call's type) are compared by templates, so their borders stay.
        return {
            disguise.hide(str(key), borders=False): _hidden_value(item, disguise, borders=False)
            for key, item in value.items()
        }
    if isinstance(value, list | tuple):
        return [_hidden_value(item, disguise, borders=borders) for item in value]
    return value


def _cut_at(marker: str, rendered: str) -> str:
    """The rendered text up to the end of the message that is to be continued."""
    place = rendered.rfind(marker)
    if place < 0:
        raise TemplateError("the chat template leaves the last message out, so it cannot be continued")
    cut = rendered[:place]
    return cut if rendered.startswith(" ", place + 1) else cut.rstrip()
