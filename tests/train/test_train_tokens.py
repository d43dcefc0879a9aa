"""Text and tokens: what training writes is what the template renders and what the tokenizer gives back."""

import json
from functools import cache
from itertools import islice
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer
from transformers import PreTrainedTokenizerFast

import fullbore
from fullbore.server.tokenizer import Tokenizer as ServedTokenizer
from fullbore.train.demo import POSITIONS, Recipe, make_tokenizer
from fullbore.train.demo_data import questions
from fullbore.train.tokens import (
    ASSISTANT,
    BOS,
    BOS_ID,
    CHAT_TEMPLATE,
    END_THINK,
    EOS,
    EOS_ID,
    PAD,
    PAD_ID,
    THINK,
    USER,
    prompt_text,
    reply_text,
    write_tokenizer,
)

BUNDLED = Path(fullbore.__file__).parent / "assets" / "demo"
TAGS = (BOS, EOS, PAD, USER, ASSISTANT, THINK, END_THINK)
DRAWN = [
    *islice(questions("train", "tokens"), 150),
    *islice(questions("heldout", "tokens"), 150),
]


@pytest.fixture(scope="module", params=["tiny", "bundled"])
def folder(
    request: pytest.FixtureRequest, tokenizer: Tokenizer, tmp_path_factory: pytest.TempPathFactory
) -> Path:
    """A model's folder with the tokenizer in it: the tests' own, and the one that is shipped."""
    if request.param == "bundled":
        return BUNDLED
    path = tmp_path_factory.mktemp("tokenizer")
    write_tokenizer(tokenizer, path, POSITIONS)
    return path


@cache
def tokenizer_in(folder: Path) -> Tokenizer:
    return Tokenizer.from_file(str(folder / "tokenizer.json"))


def ids_of(folder: Path, text: str) -> list[int]:
    ids: list[int] = tokenizer_in(folder).encode(text, add_special_tokens=False).ids
    return ids


def test_both_template_engines_render_what_is_trained_on(folder: Path) -> None:
    """The server's and transformers', from the files as written."""
    vocab_size = tokenizer_in(folder).get_vocab_size()
    served = ServedTokenizer.load(folder, vocab_size)
    published = PreTrainedTokenizerFast.from_pretrained(folder)
    own = tokenizer_in(folder)
    for question in DRAWN:
        text = prompt_text(question.messages)
        ids = own.encode(text, add_special_tokens=False).ids
        messages = list(question.messages)
        rendered = published.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
        assert rendered == text
        assert served.encode_chat(messages) == ids
        assert served.starts_in_reasoning(ids)


def test_a_reply_put_back_into_the_conversation_loses_its_thought(folder: Path) -> None:
    """As clients send it that keep the whole text: the next turn sees the answer alone, as in training."""
    published = PreTrainedTokenizerFast.from_pretrained(folder)
    for question in DRAWN[:40]:
        whole = reply_text(question).removesuffix(EOS)
        later = [{"role": "assistant", "content": text} for text in (f"{THINK}\n{whole}", question.answer)]
        after = {"role": "user", "content": "Now add 3."}
        rendered = [
            published.apply_chat_template(
                [*question.messages, one, after], tokenize=False, add_generation_prompt=True
            )
            for one in later
        ]
        assert rendered[0] == rendered[1] == prompt_text([*question.messages, later[1], after])


def test_the_shipped_files_are_this_recipes() -> None:
    config = json.loads((BUNDLED / "tokenizer_config.json").read_text("utf-8"))
    assert config["chat_template"] == CHAT_TEMPLATE
    assert config["model_max_length"] == POSITIONS
    assert Tokenizer.from_file(str(BUNDLED / "tokenizer.json")).get_vocab_size() == Recipe().vocab_size


@pytest.mark.slow
def test_the_shipped_tokenizer_is_learnt_again_from_its_seed() -> None:
    """The trainer of another release of tokenizers may choose otherwise."""
    assert make_tokenizer(Recipe()).get_vocab() == tokenizer_in(BUNDLED).get_vocab()


def test_special_tokens_have_their_ids_and_only_tags_of_thought_are_decoded(folder: Path) -> None:
    tokenizer = tokenizer_in(folder)
    assert [tokenizer.token_to_id(text) for text in (BOS, EOS, PAD)] == [BOS_ID, EOS_ID, PAD_ID]
    for tag in TAGS:
        (number,) = ids_of(folder, tag)
        assert tokenizer.decode([number], skip_special_tokens=True) == (
            tag if tag in (THINK, END_THINK) else ""
        )


def test_every_reply_is_written_back_as_it_was(folder: Path) -> None:
    tokenizer = tokenizer_in(folder)
    for question in DRAWN:
        ids = ids_of(folder, reply_text(question))
        assert ids[-1] == EOS_ID
        assert ids.count(EOS_ID) == 1
        assert tokenizer.decode(ids) == reply_text(question).removesuffix(EOS)


@settings(max_examples=80)
@given(st.text(st.characters(exclude_categories=["Cs"])))
def test_any_text_is_written_back_as_it_was(tokenizer: Tokenizer, text: str) -> None:
    ids = tokenizer.encode(text, add_special_tokens=False).ids
    assert tokenizer.decode(ids, skip_special_tokens=False) == text


@given(st.integers(0, 10**12))
def test_digits_stand_alone(tokenizer: Tokenizer, number: int) -> None:
    """Sums are worked digit by digit, so a digit is always the same token."""
    digits = [tokenizer.encode(digit, add_special_tokens=False).ids for digit in str(number)]
    assert tokenizer.encode(str(number), add_special_tokens=False).ids == [one for (one,) in digits]
