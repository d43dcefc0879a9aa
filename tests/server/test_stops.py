"""Stop strings against ``str.find``, however the text is cut into chunks."""

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fullbore.server.stops import StopStrings

LETTERS = st.text(alphabet="ab你", max_size=30)
STOPS = st.lists(st.text(alphabet="ab你", min_size=1, max_size=5), max_size=4)


def chunked(text: str, cuts: list[int]) -> list[str]:
    places = sorted({0, len(text), *(cut % (len(text) + 1) for cut in cuts)})
    return [text[start:stop] for start, stop in pairwise(places)] or [""]


def expected(text: str, stops: list[str], include: bool) -> tuple[str, str | None]:
    """Complete first; then longest."""
    ends = [(text.find(stop) + len(stop), -len(stop), stop) for stop in stops if stop in text]
    if not ends:
        return text, None
    end, minus_length, stop = min(ends)
    return text[: end if include else end + minus_length], stop


@given(text=LETTERS, stops=STOPS, cuts=st.lists(st.integers(0, 100)), include=st.booleans())
def test_agrees_with_find(text: str, stops: list[str], cuts: list[int], include: bool) -> None:
    stream = StopStrings(stops, include)
    shown, stopped = "", False
    for chunk in chunked(text, cuts):
        more, stopped = stream.push(chunk)
        shown += more
        if stopped:
            break
    shown += stream.flush()
    assert (shown, stream.found) == expected(text, stops, include)
    assert stopped == (stream.found is not None)


@given(text=LETTERS, stops=STOPS)
def test_shows_all_that_is_certain_and_nothing_else(text: str, stops: list[str]) -> None:
    """Held back is exactly the longest end that begins a stop string."""
    stream = StopStrings(stops)
    shown = ""
    for place, char in enumerate(text, 1):
        more, stopped = stream.push(char)
        shown += more
        if stopped:
            break
        held = max(
            (size for stop in stops for size in range(len(stop)) if text[:place].endswith(stop[:size])),
            default=0,
        )
        assert shown == text[: place - held]


@given(text=LETTERS, stop=st.text(alphabet="ab", min_size=1, max_size=4))
def test_one_string_is_found_where_find_finds_it(text: str, stop: str) -> None:
    shown, stopped = StopStrings([stop]).push(text)
    if stop in text:
        assert (shown, stopped) == (text[: text.find(stop)], True)
    else:
        assert not stopped


def test_nothing_follows_a_stop() -> None:
    stream = StopStrings(["\n\n"])
    assert stream.push("a\n") == ("a", False)
    assert stream.push("\nb") == ("", True)
    assert stream.push("c") == ("", True)
    assert stream.flush() == ""
    assert stream.found == "\n\n"


def test_without_stop_strings_text_passes_at_once() -> None:
    assert StopStrings([]).push("abc") == ("abc", False)


def test_an_empty_stop_string_is_refused() -> None:
    with pytest.raises(ValueError, match="empty"):
        StopStrings(["a", ""])


def test_long_repetitive_stop_strings_take_linear_time() -> None:
    stop = "a" * 1000 + "b"
    stream = StopStrings([stop, "a" * 999 + "c"])
    shown = "".join(stream.push("aaaa")[0] for _ in range(20_000))
    assert len(shown) == 80_000 - 1000
    assert stream.push("b") == ("", True)
