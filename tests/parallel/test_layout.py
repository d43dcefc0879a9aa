"""Layouts: what they say, what they refuse, and that nothing of the model is lost by cutting it."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fullbore.errors import UsageError
from fullbore.model.named import DEEPSEEK_V3, named_config
from fullbore.parallel.layout import Layout, check_layout, parse_layout, possible_layouts
from fullbore.steptime.network import RECIPES, share

CONFIG = named_config(DEEPSEEK_V3)
LAYOUTS = st.sampled_from(
    [layout for count in (1, 2, 4, 8, 16) for layout in possible_layouts(CONFIG, count)]
)


@given(LAYOUTS)
def test_a_layout_is_read_as_it_is_written(layout: Layout) -> None:
    assert parse_layout(str(layout)) == layout


@pytest.mark.parametrize("text", ["", "8", "tp", "tp0", "tp8tp8", "tp8x", "pp2", "ep3dp8"])
def test_what_is_no_layout_is_refused(text: str) -> None:
    with pytest.raises(UsageError):
        parse_layout(text)


def test_three_devices_cannot_share_128_heads() -> None:
    with pytest.raises(UsageError, match=r"128 heads.*counts that do: 1, 2, 4"):
        check_layout(parse_layout("tp3"), CONFIG, 3)


def test_a_layout_for_another_count_says_what_is_possible() -> None:
    with pytest.raises(UsageError, match=r"needs 8 devices and the server has 4; possible are .*tp4"):
        check_layout(parse_layout("tp8"), CONFIG, 4)


@given(LAYOUTS, st.sampled_from(list(RECIPES.values())))
def test_experts_are_cut_without_loss(layout: Layout, recipe: object) -> None:
    part, whole = share(CONFIG, layout, recipe), share(CONFIG, Layout(), recipe)  # type: ignore[arg-type]
    local = sum(matrix.bytes for matrix in part.experts) * layout.devices
    assert local == pytest.approx(sum(matrix.bytes for matrix in whole.experts))
