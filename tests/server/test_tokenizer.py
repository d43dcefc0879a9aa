"""Loading a tokenizer, and plain text to ids and back."""

import json
import random
import threading
import time
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from model_folders import (
    BOS,
    CONTROL,
    EOS,
    NASTY,
    PUBLISHED_VOCABULARY,
    ids_of,
    published_folder,
    small_folder,
    small_tokenizer_json,
    small_vocabulary,
)
from tokenizers import Tokenizer as Library

from fullbore.errors import CheckpointError
from fullbore.server.tokenizer import Tokenizer

VOCABULARY = small_vocabulary()


@pytest.fixture(scope="module")
def r1(tmp_path_factory: pytest.TempPathFactory) -> Tokenizer:
    return Tokenizer.load(small_folder(tmp_path_factory.mktemp("r1")), VOCABULARY)


@pytest.fixture(scope="module")
def published(tmp_path_factory: pytest.TempPathFactory) -> Tokenizer:
    return Tokenizer.load(published_folder(tmp_path_factory.mktemp("published")), PUBLISHED_VOCABULARY)


@pytest.fixture(scope="module")
def published_library(tmp_path_factory: pytest.TempPathFactory) -> Library:
    folder = published_folder(tmp_path_factory.mktemp("library"))
    return Library.from_file(str(folder / "tokenizer.json"))


@pytest.fixture(scope="module")
def library() -> Library:
    """The same tokenizer without our rules: it turns every control string into its token."""
    return Library.from_str(small_tokenizer_json())


# --- plain text -------------------------------------------------------------------------------------------


@settings(deadline=None)
@given(text=NASTY)
def test_encoded_text_comes_back_and_holds_no_control_token(
    r1: Tokenizer, library: Library, text: str
) -> None:
    ids = r1.encode(text)
    assert r1.decode(ids, skip_special=False) == text
    assert not set(ids) & set(ids_of(library, *CONTROL))


@settings(deadline=None)
@given(text=st.text().filter(lambda text: not any(token in text for token in CONTROL)))
def test_text_without_control_strings_is_encoded_as_the_library_does(
    r1: Tokenizer, library: Library, text: str
) -> None:
    assert r1.encode(text) == library.encode(text, add_special_tokens=False).ids


@settings(deadline=None)
@given(ids=st.lists(st.integers(0, VOCABULARY - 1)), skip=st.booleans())
def test_ids_are_decoded_as_the_library_does(
    r1: Tokenizer, library: Library, ids: list[int], skip: bool
) -> None:
    assert r1.decode(ids, skip) == library.decode(ids, skip_special_tokens=skip)


def test_think_tags_marked_special_still_show(tmp_path: Path) -> None:
    folder = small_folder(tmp_path)
    data = json.loads(small_tokenizer_json())
    for token in data["added_tokens"]:
        token["special"] = True
    (folder / "tokenizer.json").write_text(json.dumps(data))
    tokenizer = Tokenizer.load(folder, VOCABULARY)
    ids = ids_of(Library.from_str(json.dumps(data)), BOS, "<think>", "</think>", EOS)
    assert tokenizer.decode(ids) == "<think></think>"


def test_ids_without_a_token_decode_to_nothing(r1: Tokenizer) -> None:
    assert r1.decode([VOCABULARY + 5, *r1.encode("hello"), VOCABULARY]) == "hello"


def test_beginning_of_sequence_as_configured(tmp_path: Path, library: Library) -> None:
    (bos,) = ids_of(library, BOS)
    with_bos = Tokenizer.load(small_folder(tmp_path / "a", add_bos_token=True), VOCABULARY)
    without = Tokenizer.load(small_folder(tmp_path / "b"), VOCABULARY)
    assert with_bos.encode("") == [bos]
    assert with_bos.encode("hello") == [bos, *without.encode("hello")]
    assert without.encode("") == []
    assert with_bos.bos_token_id == bos


def test_without_the_field_the_post_processor_tells_of_the_beginning(
    tmp_path: Path, library: Library
) -> None:
    (bos,) = ids_of(library, BOS)
    folder = small_folder(tmp_path, add_bos_token=None)
    data = json.loads(small_tokenizer_json())
    single = [{"SpecialToken": {"id": BOS, "type_id": 0}}, {"Sequence": {"id": "A", "type_id": 0}}]
    template = {"type": "TemplateProcessing", "single": single, "pair": single}
    template["special_tokens"] = {BOS: {"id": BOS, "ids": [bos], "tokens": [BOS]}}
    data["post_processor"] = {"type": "Sequence", "processors": [template]}
    (folder / "tokenizer.json").write_text(json.dumps(data))
    assert Tokenizer.load(folder, VOCABULARY).encode("a")[0] == bos


def test_truncation_and_padding_of_the_file_are_not_applied(tmp_path: Path, r1: Tokenizer) -> None:
    folder = small_folder(tmp_path)
    data = json.loads(small_tokenizer_json())
    data["truncation"] = {"direction": "Right", "max_length": 4, "strategy": "LongestFirst", "stride": 0}
    (folder / "tokenizer.json").write_text(json.dumps(data))
    text = "hello and hello and hello"
    assert Tokenizer.load(folder, VOCABULARY).encode(text) == r1.encode(text)


def test_long_text_leaves_the_interpreter_to_others(r1: Tokenizer) -> None:
    """A long prompt encoded in a thread must not stop the event loop."""
    text = "the cat says " * 40_000
    ids: list[int] = []
    thread = threading.Thread(target=lambda: ids.extend(r1.encode(text)))
    turns = 0
    thread.start()
    while thread.is_alive():
        time.sleep(0.001)
        turns += 1
    assert r1.decode(ids) == text
    assert turns > 5


def test_characters_of_the_longest_token(r1: Tokenizer, published: Tokenizer) -> None:
    assert r1.max_chars_per_token >= len(BOS)
    assert 128 <= published.max_chars_per_token < 1000  # there is a token of 128 blanks


# --- loading ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["tokenizer.json", "tokenizer_config.json"])
@pytest.mark.parametrize("content", [None, b"{", b"[]", b"\xff\xfe"])
def test_missing_or_broken_file_is_named(tmp_path: Path, name: str, content: bytes | None) -> None:
    folder = small_folder(tmp_path)
    (folder / name).unlink()
    if content is not None:
        (folder / name).write_bytes(content)
    with pytest.raises(CheckpointError, match=name.replace(".", r"\.")):
        Tokenizer.load(folder, VOCABULARY)


def changed(**fields: object) -> dict[str, object]:
    return {**json.loads(small_tokenizer_json()), **fields}


def token(**fields: object) -> dict[str, object]:
    return {"id": 0, "content": "<x>", "special": True, **fields}


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        ({}, "decoder None"),
        (changed(decoder={"type": "Metaspace"}), "decoder 'Metaspace'"),
        (changed(model={"type": "BPE"}), "is not a tokenizer"),
        (changed(model={"type": "Nonsense", "vocab": {}}), "is not a tokenizer"),
        (changed(added_tokens=[3]), "added_tokens"),
        (changed(added_tokens=[token(id="0")]), "'0'"),
        (changed(added_tokens=[token(content="")]), "content ''"),
        (changed(added_tokens=[token(single_word=True)]), "single_word"),
        (changed(added_tokens=[token(), token(id=1)]), "occurs twice"),
        (changed(added_tokens=[token(), token(content="<y>")]), "share one id"),
        (changed(added_tokens=[token(id=VOCABULARY)]), f"largest token id {VOCABULARY}"),
        (
            changed(
                added_tokens=[
                    token(content="a", id=json.loads(small_tokenizer_json())["model"]["vocab"]["a"])
                ]
            ),
            "'a'",
        ),
    ],
)
def test_what_is_wrong_in_tokenizer_json_is_said(
    tmp_path: Path, data: dict[str, object], reason: str
) -> None:
    folder = small_folder(tmp_path)
    (folder / "tokenizer.json").write_text(json.dumps(data))
    with pytest.raises(CheckpointError, match=reason):
        Tokenizer.load(folder, VOCABULARY)


def test_a_tokenizer_larger_than_the_embedding_is_refused(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=f"vocab_size {VOCABULARY - 1}"):
        Tokenizer.load(small_folder(tmp_path), VOCABULARY - 1)


@pytest.mark.parametrize(
    ("config", "reason"),
    [
        ({"bos_token": "<nowhere>"}, "bos_token is '<nowhere>'"),
        ({"eos_token": {"content": "<nowhere>"}}, "eos_token is '<nowhere>'"),
        ({"bos_token": None, "add_bos_token": True}, "there is no bos_token"),
        ({"chat_template": 3}, "chat_template is a int"),
        ({"chat_template": [{"name": "rag", "template": "x"}]}, "none of them named 'default'"),
    ],
)
def test_what_is_wrong_in_the_config_is_said(tmp_path: Path, config: dict[str, object], reason: str) -> None:
    with pytest.raises(CheckpointError, match=reason):
        Tokenizer.load(small_folder(tmp_path, None, **config), VOCABULARY)


@settings(max_examples=20, deadline=None)
@given(seed=st.integers(0, 1000))
def test_published_ids_are_decoded_as_the_library_does(
    published: Tokenizer, published_library: Library, seed: int
) -> None:
    ids = [random.Random(seed).randrange(PUBLISHED_VOCABULARY) for _ in range(50)]
    assert published.decode(ids) == published_library.decode(ids)
