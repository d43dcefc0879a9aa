"""Thought and answer, however the text is cut into chunks."""

import re
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fullbore.server.reasoning import CLOSE, OPEN, ReasoningSplitter

PIECES = st.sampled_from(
    [OPEN, CLOSE, "<", "</", "</thi", "think>", ">", "\n", "\n\n", " ", "a", "12 你好", "<THINK>"]
)
TEXT = st.lists(PIECES, max_size=10).map("".join)


def split(chunks: list[str], inside: bool) -> tuple[str, str]:
    splitter = ReasoningSplitter(inside)
    pairs = [*map(splitter.push, chunks), splitter.flush()]
    return "".join(pair[0] for pair in pairs), "".join(pair[1] for pair in pairs)


def expected(text: str, inside: bool) -> tuple[str, str]:
    """The rules, on a whole text."""
    opened = re.match(rf"\s{{0,64}}{OPEN}", text)
    if opened:
        text = text[opened.end() :]
    elif not inside:
        return "", text
    thought, closed, answer = text.partition(CLOSE)
    thought = thought.lstrip("\n")
    return (thought.rstrip("\n"), answer.lstrip("\n")) if closed else (thought, "")


@given(text=TEXT | st.text(), inside=st.booleans(), cuts=st.lists(st.integers(0, 60)))
def test_chunks_do_not_matter(text: str, inside: bool, cuts: list[int]) -> None:
    places = sorted({0, len(text), *(min(cut, len(text)) for cut in cuts)})
    chunks = [text[start:stop] for start, stop in pairwise(places)]
    assert split(chunks, inside) == expected(text, inside)
    assert split(list(text), inside) == expected(text, inside)


@given(text=st.text(), inside=st.booleans(), cuts=st.lists(st.integers(0, 60)))
def test_text_without_tags_is_not_changed(text: str, inside: bool, cuts: list[int]) -> None:
    thought, answer = split(list(text), inside)
    if not inside:
        assert (thought, answer) == ("", text)
    else:
        assert (thought, answer) == (text.lstrip("\n"), "")


@given(
    thought=st.text(alphabet="ab <\n", max_size=20).map(lambda text: text.strip("\n")),
    answer=st.text(alphabet="ab <>\n", max_size=20).map(lambda text: text.lstrip("\n")),
)
@pytest.mark.parametrize("style", ["R1", "R1-0528"])
def test_both_habits_give_the_same(style: str, thought: str, answer: str) -> None:
    written = f"{thought}\n{CLOSE}\n\n{answer}"
    if style == "R1-0528":
        written = f"{OPEN}\n{written}"
    assert split(list(written), inside=style == "R1") == (thought, answer)


def test_it_streams_what_is_certain() -> None:
    splitter = ReasoningSplitter(True)
    assert splitter.inside
    assert splitter.push("\nfirst") == ("first", "")
    assert splitter.push(" line\n") == (" line", "")
    assert splitter.push("\nsecond </thi") == ("\n\nsecond ", "")
    assert splitter.push("s\n</") == ("</this", "")
    assert splitter.inside
    assert splitter.push("think>\n") == ("", "")
    assert not splitter.inside
    assert splitter.push("\nAnswer\n") == ("", "Answer\n")
    assert splitter.push(f"{OPEN}a{CLOSE}") == ("", f"{OPEN}a{CLOSE}")
    assert splitter.flush() == ("", "")


def test_an_answer_without_a_thought_starts_at_once() -> None:
    splitter = ReasoningSplitter(False)
    assert splitter.push(" ") == ("", "")
    assert splitter.push("Hello") == ("", " Hello")
    assert not splitter.inside


def test_a_thought_that_never_closes_is_thought() -> None:
    assert split(["\n\na\n\n", "</thin"], inside=True) == ("a\n\n</thin", "")


def test_a_tag_that_the_model_repeats_after_the_prompt_is_dropped() -> None:
    assert split([OPEN, "\na", CLOSE, "b"], inside=True) == ("a", "b")


def test_many_line_ends_take_linear_time() -> None:
    assert split(["\n"] * 20_000 + ["a"], inside=True) == ("a", "")
    thought, answer = split(["a"] + ["\n"] * 20_000 + [CLOSE], inside=True)
    assert (thought, answer) == ("a", "")
    assert split([" "] * 1000 + [OPEN], inside=False) == ("", " " * 1000 + OPEN)
