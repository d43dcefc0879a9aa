"""Experts touched and rows padded, against their limits and a simulation."""

import math
import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fullbore.steptime.routing import experts_touched, padded_rows

TOKENS = st.integers(1, 100_000)


@given(TOKENS, st.floats(0.1, 100))
def test_touched_is_between_one_token_and_all(tokens: int, evenness: float) -> None:
    some = experts_touched(256, 8, tokens, evenness)
    # An uneven choice touches fewer; 8 of one token are distinct either way only where all are alike.
    assert 0 < some <= experts_touched(256, 8, tokens) <= 256
    assert some <= experts_touched(256, 8, tokens + 1, evenness) + 1e-9


def test_one_token_touches_what_it_chooses() -> None:
    assert experts_touched(256, 8, 1) == pytest.approx(8)
    assert 256 - experts_touched(256, 8, 158) == pytest.approx(1.7, abs=0.1)


@given(TOKENS, st.integers(1, 128))
def test_padding_adds_less_than_a_tile_an_expert(tokens: int, tile: int) -> None:
    rows = padded_rows(256, 8, tokens, tile)
    assert tokens * 8 * (1 - 1e-6) <= rows <= tokens * 8 + 256 * tile


def test_padding_is_what_a_draw_shows() -> None:
    chance, tile, tokens = random.Random(1), 16, 158
    drawn = 0.0
    for _ in range(200):
        counts = [0] * 256
        for _ in range(tokens):
            for expert in chance.sample(range(256), 8):
                counts[expert] += 1
        drawn += sum(math.ceil(count / tile) * tile for count in counts) / 200
    assert padded_rows(256, 8, tokens, tile) == pytest.approx(drawn, rel=0.02)
