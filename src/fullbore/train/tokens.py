"""The demo model's tokenizer: a byte-level BPE learnt from its own text, and a chat template like R1's."""

import json
from collections.abc import Iterable
from pathlib import Path

from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, pre_tokenizers, trainers

from fullbore.train.demo_data import Question

BOS, EOS, PAD = "<｜begin▁of▁sentence｜>", "<｜end▁of▁sentence｜>", "<｜▁pad▁｜>"
USER, ASSISTANT, THINK, END_THINK = "<｜User｜>", "<｜Assistant｜>", "<think>", "</think>"
BOS_ID, EOS_ID, PAD_ID = 0, 1, 2

# The generation prompt opens the thought itself; earlier answers keep only what follows it.
CHAT_TEMPLATE = (
    "{% if not add_generation_prompt is defined %}{% set add_generation_prompt = false %}{% endif %}"
    "{{ bos_token }}"
    "{% for message in messages %}"
    "{% if message['role'] == 'system' %}"
    "{% if not loop.first %}{{ raise_exception('a system message must come first') }}{% endif %}"
    "{{ message['content'] }}"
    "{% elif message['role'] == 'user' %}"
    "{{ '<｜User｜>' + message['content'] }}"
    "{% elif message['role'] == 'assistant' %}"
    "{{ '<｜Assistant｜>' + (message['content'].split('</think>') | last | trim) + '<｜end▁of▁sentence｜>' }}"
    "{% else %}"
    "{{ raise_exception('role ' + message['role'] + ' is not one of system, user, assistant') }}"
    "{% endif %}"
    "{% endfor %}"
    "{% if add_generation_prompt %}{{ '<｜Assistant｜><think>\\n' }}{% endif %}"
)


def prompt_text(messages: Iterable[dict[str, str]]) -> str:
    """What the template makes of ``messages`` with a generation prompt, BOS included; no template engine."""
    parts = [BOS]
    for message in messages:
        content = message["content"]
        parts.append(
            {"system": content, "user": USER + content, "assistant": ASSISTANT + content + EOS}[
                message["role"]
            ]
        )
    return "".join([*parts, ASSISTANT, THINK, "\n"])


def reply_text(question: Question) -> str:
    """What the model is to write after the prompt, the end token included."""
    return f"{question.thinking}\n{END_THINK}\n\n{question.answer}{EOS}"


def train_tokenizer(texts: Iterable[str], vocab_size: int) -> Tokenizer:
    """Learn merges from ``texts`` (free of special tokens) until there are ``vocab_size`` entries.

    All 256 bytes have a token, so every text can be written; digits stand alone: sums are worked by digit.
    """
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(r"\p{N}"), "isolated"),
            pre_tokenizers.Split(Regex(r"\n"), "isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        special_tokens=[
            AddedToken(text, special=True, normalized=False) for text in (BOS, EOS, PAD, USER, ASSISTANT)
        ]
        + [AddedToken(text, special=False, normalized=False) for text in (THINK, END_THINK)],
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    # the trainer marks all its tokens special; the thought's tags must survive decoding, as published
    state = json.loads(tokenizer.to_str())
    for token in state["added_tokens"]:
        token["special"] = token["content"] not in (THINK, END_THINK)
    return Tokenizer.from_str(json.dumps(state))


def write_tokenizer(tokenizer: Tokenizer, folder: Path, max_length: int) -> None:
    """tokenizer.json and tokenizer_config.json with the chat template, as published."""
    tokenizer.save(str(folder / "tokenizer.json"))
    config = {
        "add_bos_token": False,
        "add_eos_token": False,
        "bos_token": _token(BOS),
        "clean_up_tokenization_spaces": False,
        "eos_token": _token(EOS),
        "legacy": True,
        "model_max_length": max_length,
        "pad_token": _token(PAD),
        "unk_token": None,
        "tokenizer_class": "PreTrainedTokenizerFast",
        "chat_template": CHAT_TEMPLATE,
    }
    (folder / "tokenizer_config.json").write_text(
        json.dumps(config, indent=2, ensure_ascii=False) + "\n", "utf-8"
    )


def _token(content: str) -> dict[str, object]:
    return {
        "__type": "AddedToken", "content": content, "lstrip": False, "normalized": False, "rstrip": False,
        "single_word": False, "special": True,
    }  # fmt: skip
