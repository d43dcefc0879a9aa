"""Streams of text from streams of ids."""

import json
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from model_folders import (
    BOS,
    PUBLISHED_VOCABULARY,
    published_folder,
    small_folder,
    small_tokenizer_json,
    small_vocabulary,
)

from fullbore.server.detokenizer import Detokenizer
from fullbore.server.tokenizer import Tokenizer

VOCABULARY = small_vocabulary()
SPARE_IDS = 5  # a model's vocabulary is often larger than its tokenizer's


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Tokenizer:
    return Tokenizer.load(small_folder(tmp_path_factory.mktemp("small")), VOCABULARY)


@pytest.fixture(scope="module")
def published(tmp_path_factory: pytest.TempPathFactory) -> Tokenizer:
    return Tokenizer.load(published_folder(tmp_path_factory.mktemp("published")), PUBLISHED_VOCABULARY)


def streamed(tokenizer: Tokenizer, ids: list[int], skip: bool = True) -> tuple[list[str], str]:
    detokenizer = Detokenizer(tokenizer, skip)
    return [detokenizer.push(id) for id in ids], detokenizer.flush()


IDS = st.lists(st.integers(0, VOCABULARY + SPARE_IDS))
PUBLISHED_IDS = st.lists(st.integers(0, PUBLISHED_VOCABULARY - 1))
# One to four bytes, joined emoji, flags, combining marks, and what byte-level BPE writes for bytes.
CHARACTERS = [
    "a",
    " ",
    "\n",
    "é",
    "e\u0301",
    "你",
    "好",
    "🙂",
    "👩‍👩‍👧",
    "🇩🇪",
    "\u200d",
    "\ufffd",
    "Ġ",
    "Ċ",
    "𝔘",
    "नि",
]
TEXT = st.text() | st.lists(st.sampled_from(CHARACTERS)).map("".join)


@settings(deadline=None)
@given(ids=IDS, skip=st.booleans())
def test_pieces_join_to_the_decoded_whole(small: Tokenizer, ids: list[int], skip: bool) -> None:
    pieces, rest = streamed(small, ids, skip)
    assert "".join(pieces) + rest == small.decode(ids, skip)


@settings(deadline=None)
@given(ids=PUBLISHED_IDS)
def test_pieces_join_to_the_decoded_whole_with_the_published_tokenizer(
    published: Tokenizer, ids: list[int]
) -> None:
    pieces, rest = streamed(published, ids)
    assert "".join(pieces) + rest == published.decode(ids)


@settings(deadline=None)
@given(text=TEXT)
def test_no_broken_character_is_shown(small: Tokenizer, text: str) -> None:
    pieces, rest = streamed(small, small.encode(text))
    assert "".join(pieces) == text
    assert rest == ""
    for piece in pieces:
        assert piece.count("\ufffd") <= text.count("\ufffd")


@settings(deadline=None)
@given(text=TEXT)
def test_no_broken_character_is_shown_with_the_published_tokenizer(published: Tokenizer, text: str) -> None:
    pieces, rest = streamed(published, published.encode(text))
    assert ("".join(pieces), rest) == (text, "")


@settings(deadline=None)
@given(text=TEXT.filter(bool), cut=st.integers(1, 10))
def test_a_text_that_breaks_off_keeps_its_whole_characters(small: Tokenizer, text: str, cut: int) -> None:
    """Stopped anywhere, the stream has shown a beginning of the text; the broken rest is one U+FFFD."""
    pieces, rest = streamed(small, small.encode(text)[:-cut])
    assert text.startswith("".join(pieces))
    assert rest in ("", "\ufffd")


def test_bytes_of_a_character_in_four_tokens(small: Tokenizer) -> None:
    vocabulary = json.loads(small_tokenizer_json())["model"]["vocab"]
    by_bytes = {small.token_bytes(id): id for id in vocabulary.values()}
    ids = [by_bytes[bytes([byte])] for byte in "😀".encode()]
    assert streamed(small, ids) == (["", "", "", "😀"], "")
    assert streamed(small, ids[:3]) == (["", "", ""], "\ufffd")
    assert streamed(small, [*ids[:2], vocabulary["a"]]) == (["", "", "\ufffda"], "")


def test_special_tokens_are_skipped_or_shown(small: Tokenizer) -> None:
    ids = [small.bos_token_id or 0, *small.encode("hello")]
    assert "".join(streamed(small, ids)[0]) == "hello"
    assert "".join(streamed(small, ids, skip=False)[0]) == BOS + "hello"


def test_flush_makes_it_ready_for_another_sequence(small: Tokenizer) -> None:
    detokenizer = Detokenizer(small)
    detokenizer.push(small.encode("你")[0])
    detokenizer.flush()
    assert "".join(map(detokenizer.push, small.encode("hello"))) == "hello"


def test_leading_blank_of_a_first_token_is_kept(tmp_path: Path) -> None:
    tokenizer = Tokenizer.load(small_folder(tmp_path), VOCABULARY)
    assert "".join(streamed(tokenizer, tokenizer.encode("  hello"))[0]) == "  hello"
