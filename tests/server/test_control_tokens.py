"""Finding and disguising control strings."""

import tokenizers
from hypothesis import given, settings
from hypothesis import strategies as st
from model_folders import small_tokenizer_json

from fullbore.server.control_tokens import AddedToken, ControlTokens, Disguise

# Tokens that begin with, contain and end with each other, one of one character, some that take blanks along.
TOKENS = [
    AddedToken(1000 + number, text, special=True, lstrip=lstrip, rstrip=rstrip)
    for number, (text, lstrip, rstrip) in enumerate(
        [
            ("<a>", False, False),
            ("<a>b", False, False),
            ("<a>bc>", False, False),
            ("a>", False, True),
            ("<<", True, False),
            ("｜", True, True),
        ]
    )
]
CONTROL = ControlTokens(TOKENS, shown=["<a>"])
TEXT = st.text(alphabet="<a>bc｜ \n", max_size=20)


def library() -> tokenizers.Tokenizer:
    """Byte-level BPE without its own added tokens and with ours."""
    tokenizer = tokenizers.Tokenizer.from_str(small_tokenizer_json())
    bare = tokenizers.Tokenizer(tokenizer.model)
    bare.pre_tokenizer = tokenizer.pre_tokenizer
    return bare


PLAIN, FULL = library(), library()
FULL.add_special_tokens(
    [
        tokenizers.AddedToken(token.text, lstrip=token.lstrip, rstrip=token.rstrip, normalized=False)
        for token in TOKENS
    ]
)


@settings(deadline=None)
@given(text=TEXT)
def test_text_is_cut_where_the_library_cuts_it(text: str) -> None:
    ids: list[int] = []
    for part in CONTROL.split(text):
        if isinstance(part, str):
            ids += PLAIN.encode(part).ids
        else:
            ids.append(FULL.token_to_id(TOKENS[part - 1000].text))
    assert ids == FULL.encode(text).ids


@given(text=TEXT, trusted=st.booleans(), borders=st.booleans())
def test_a_disguised_text_holds_no_control_string_and_can_be_revealed(
    text: str, trusted: bool, borders: bool
) -> None:
    disguise = Disguise(CONTROL, [text])
    hidden = disguise.hide(text, trusted, borders)
    left = {token.text for token in TOKENS if token.text in hidden}
    assert left <= ({"<a>"} if trusted else set())
    assert len(hidden) == len(text)
    assert disguise.reveal(hidden) == text


@given(before=st.text(alphabet="<a>bc", max_size=4), text=TEXT, after=st.text(alphabet="<a>bc", max_size=4))
def test_no_neighbour_completes_a_disguised_text(before: str, text: str, after: str) -> None:
    """Every control token of the whole lies in what the template wrote, stripped text or not."""
    disguise = Disguise(CONTROL, [before, text, after])
    for shown in (disguise.hide(text), disguise.hide(text).strip()):
        if shown:
            inside = sum(isinstance(part, int) for part in CONTROL.split(before + shown + after))
            outside = CONTROL.split(before + "\ue000" + after)
            assert inside == sum(isinstance(part, int) for part in outside)


def test_without_added_tokens_all_is_text() -> None:
    none = ControlTokens([])
    assert none.split("<a>") == ["<a>"]
    assert Disguise(none, []).hide("<a>") == "<a>"
