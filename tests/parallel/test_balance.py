"""Drawn experts: as uneven as asked, different ones for a token, as many as the step-time model says."""

from collections import Counter

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from fullbore.errors import UsageError
from fullbore.ops.drawn import drawn
from fullbore.parallel.balance import EVENNESS, SLOTS, Balance, expert_table, parse_balance
from fullbore.steptime.routing import experts_touched

EVEN = st.sampled_from([0, 1, 2, 4])


@given(st.sampled_from([1, 2, 4, 8]), st.integers(1, 16), st.integers(1, 8), EVEN, st.data())
def test_a_token_never_chooses_twice_and_busy_experts_are_as_busy_as_asked(
    groups: int, each: int, chosen: int, evenness: int, data: st.DataObject
) -> None:
    of, chosen = groups * each, min(chosen, groups * each)
    most = min(groups, each * groups / chosen)
    busiest = data.draw(st.floats(1, most)) if most > 1 else 1.0
    here = range(each * (group := data.draw(st.integers(0, groups - 1))), each * (group + 1))
    table = expert_table(Balance(busiest, evenness), here, of, chosen, data.draw(st.integers(0, 99)))
    assert len(table) == SLOTS * chosen
    assert set(table) <= set(range(of))
    for start in data.draw(st.lists(st.integers(0, SLOTS - 1), max_size=20)):
        assert len({table[start + SLOTS * place] for place in range(chosen)}) == chosen
    # Where an expert would be chosen twice by a token, others take its share; then only less can be said.
    counts = Counter(table)
    if max(counts.values()) < SLOTS:
        share = sum(counts[expert] for expert in here) / len(table)
        assert share * groups == pytest.approx(
            busiest if groups > 1 else 1, rel=0.02, abs=2 * of / len(table)
        )


@pytest.mark.parametrize("evenness", [0, EVENNESS])
@pytest.mark.parametrize("tokens", [4, 16, 64, 158, 500])
def test_as_many_experts_are_touched_as_the_step_time_model_says(evenness: int, tokens: int) -> None:
    touched = []
    for seed in range(20):
        table = torch.tensor(expert_table(Balance(1.0, evenness), range(256), 256, 8, seed))
        x = torch.randn(tokens, 4, generator=torch.Generator().manual_seed(seed)).bfloat16()
        touched.append(len(drawn(table, 8, x).unique()))
    expected = experts_touched(256, 8, tokens, evenness or float("inf"))
    assert sum(touched) / len(touched) == pytest.approx(expected, rel=0.03)


def test_a_step_draws_the_same_again_and_other_tokens_draw_others() -> None:
    table = torch.tensor(expert_table(Balance(), range(64), 64, 6, 0))
    x = torch.randn(50, 8, generator=torch.Generator().manual_seed(1))
    assert torch.equal(drawn(table, 6, x), drawn(table, 6, x.clone()))
    assert (drawn(table, 6, x) != drawn(table, 6, x + 1)).any()


def test_layers_prefer_different_experts() -> None:
    busiest = {
        Counter(expert_table(Balance(), range(64), 64, 6, layer)).most_common(1)[0][0] for layer in range(9)
    }
    assert len(busiest) > 4


def test_routing_is_read_and_what_it_cannot_be_is_refused() -> None:
    assert parse_balance("natural") is None
    assert parse_balance("balanced") == Balance(1.0, 0)
    assert parse_balance("1.2") == Balance(1.2)
    for text in ("", "even", "0.9", "nan", "inf", "-1"):
        with pytest.raises(UsageError, match=r"--routing .*expected natural"):
            parse_balance(text)
    with pytest.raises(UsageError, match=r"--routing 9: 32 of 256 experts .* at most 4"):
        expert_table(Balance(9.0), range(32), 256, 64, 0)
