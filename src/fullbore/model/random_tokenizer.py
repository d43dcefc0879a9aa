"""A tokenizer of any vocabulary size for a model with random weights: byte-level BPE, so any text goes in.

Its merges build every word over the letters, shortest first and in alphabetical order, until the vocabulary
is full; nothing is learnt, and nothing random is in it.
"""

import json
from collections.abc import Iterator
from pathlib import Path

from fullbore.model.config import ModelConfig

PAD, USER, ASSISTANT = "<｜▁pad▁｜>", "<｜User｜>", "<｜Assistant｜>"
BOS, EOS = "<｜begin▁of▁sentence｜>", "<｜end▁of▁sentence｜>"
_LETTERS = "etaoinshrdlucmfwypvbgkjqxz"
_SPACE = "Ġ"  # how byte-level BPE writes the byte 32
SMALLEST = 256 + 8

CHAT_TEMPLATE = (
    "{{ bos_token }}"
    "{%- for message in messages -%}"
    "{%- if message['role'] == 'user' -%}{{ '" + USER + "' + message['content'] }}"
    "{%- elif message['role'] == 'assistant' -%}"
    "{{ '" + ASSISTANT + "' + message['content'] + eos_token }}"
    "{%- else -%}{{ message['content'] }}{%- endif -%}"
    "{%- endfor -%}"
    "{%- if add_generation_prompt -%}{{ '" + ASSISTANT + "' }}{%- endif -%}"
)


def write_tokenizer(folder: Path, config: ModelConfig) -> bool:
    """tokenizer.json and tokenizer_config.json with ``config.vocab_size`` ids.

    Writes nothing and returns False when the vocabulary is too small to hold the 256 bytes.
    """
    if config.vocab_size < SMALLEST:
        return False
    special = _special_ids(config)
    free = (token for token in range(config.vocab_size) if token not in special.values())
    vocabulary = dict(special)
    merges: list[list[str]] = []
    for word, merge in _words():
        token = next(free, None)
        if token is None:
            break
        vocabulary[word] = token
        merges += [list(merge)] if merge else []
    added = [{**_FLAGS, "id": token, "content": text} for text, token in sorted(special.items(), key=_by_id)]
    model = {
        "type": "BPE", "dropout": None, "unk_token": None, "continuing_subword_prefix": None,
        "end_of_word_suffix": None, "fuse_unk": False, "byte_fallback": False, "ignore_merges": False,
        "vocab": dict(sorted(vocabulary.items(), key=_by_id)), "merges": merges,
    }  # fmt: skip
    byte_level = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": True}
    whole = {
        "version": "1.0", "truncation": None, "padding": None, "added_tokens": added, "normalizer": None,
        "pre_tokenizer": byte_level, "post_processor": None, "decoder": byte_level, "model": model,
    }  # fmt: skip
    settings = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "bos_token": BOS,
        "eos_token": EOS,
        "pad_token": PAD,
        "add_bos_token": True,
        "add_eos_token": False,
        "clean_up_tokenization_spaces": False,
        "model_max_length": config.max_position_embeddings,
        "chat_template": CHAT_TEMPLATE,
    }
    (folder / "tokenizer.json").write_text(json.dumps(whole, ensure_ascii=False), "utf-8")
    (folder / "tokenizer_config.json").write_text(json.dumps(settings, ensure_ascii=False, indent=2), "utf-8")
    return True


_FLAGS = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False, "special": True}


def _by_id(item: tuple[str, int]) -> int:
    return item[1]


def _special_ids(config: ModelConfig) -> dict[str, int]:
    """Begin and end where the config has them, the others at the first ids that are free."""
    begin = config.bos_token_id
    wanted: list[tuple[str, int | None]] = [(BOS, begin)]
    wanted += [(EOS, next((end for end in config.eos_token_ids if end != begin), None))]
    taken = {token for _, token in wanted if token is not None} | set(config.eos_token_ids)
    free = (token for token in range(config.vocab_size) if token not in taken)
    return {text: next(free) if token is None else token for text, token in [*wanted, *_OTHERS]}


_OTHERS: list[tuple[str, int | None]] = [(PAD, None), (USER, None), (ASSISTANT, None)]


def _words() -> Iterator[tuple[str, tuple[str, str] | None]]:
    """The 256 bytes, then words without end, each with the pair it is merged from."""
    yield from ((symbol, None) for symbol in _byte_symbols())
    shorter = [*_LETTERS, _SPACE]
    while True:
        longer = []
        for word in shorter:
            for letter in _LETTERS:
                yield word + letter, (word, letter)
                longer.append(word + letter)
        shorter = longer


def _byte_symbols() -> list[str]:
    """The printable character that byte-level BPE writes for each byte, as GPT-2 introduced it."""
    printable = [*range(33, 127), *range(161, 173), *range(174, 256)]
    rest = [byte for byte in range(256) if byte not in printable]
    return [*map(chr, printable), *(chr(256 + place) for place in range(len(rest)))]
