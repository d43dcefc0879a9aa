"""Sizes for this machine."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fullbore.engine.options import EngineOptions
from fullbore.engine.sizing import CACHE_SHARE, GIB, USUAL_LENGTH, size_cache
from fullbore.errors import CapacityError, FullboreError, UsageError


@given(
    st.integers(0, 300),
    st.integers(1, 64),
    st.floats(0, 2),
    st.integers(1, 100),
    st.integers(2, 200),
    st.integers(1, 1 << 24),
    st.integers(0, 4 * GIB),
)
def test_what_is_chosen_fits_and_the_longest_request_fits_into_it(
    length: int, page: int, kv_gb: float, seqs: int, context: int, page_bytes: int, free: int
) -> None:
    options = EngineOptions("x", max_model_len=length, page_size=page, kv_gb=kv_gb, max_num_seqs=seqs)
    try:
        sizes = size_cache(options, context, page_bytes, free)
    except FullboreError:
        return
    assert 1 <= sizes.max_model_len <= min(context, sizes.pages * page)
    assert sizes.pages * page_bytes <= (kv_gb * GIB or free * CACHE_SHARE)
    assert sizes.pages * page_bytes <= free
    if length:
        assert sizes.max_model_len == length


def test_plenty_of_memory_holds_every_request_at_full_length() -> None:
    sizes = size_cache(EngineOptions("x", max_num_seqs=10, page_size=16), 100, 1000, GIB)
    assert (sizes.pages, sizes.max_model_len) == (10 * 7, 100)


def test_a_long_context_is_not_provided_for_every_request_at_once() -> None:
    options = EngineOptions("x", max_num_seqs=10, page_size=16)
    assert size_cache(options, 163840, 1000, GIB).pages == 163840 // 16
    options = EngineOptions("x", max_num_seqs=64, page_size=16)
    assert size_cache(options, 163840, 1000, GIB).pages == 64 * USUAL_LENGTH // 16


def test_little_memory_shortens_requests_unless_a_length_was_asked_for() -> None:
    sizes = size_cache(EngineOptions("x", page_size=16), 100, 1000, 4000)
    assert (sizes.pages, sizes.max_model_len) == (2, 32)
    with pytest.raises(CapacityError, match=r"2 pages, 7 of 16 tokens are needed.*--max-model-len"):
        size_cache(EngineOptions("x", page_size=16, max_model_len=100), 100, 1000, 4000)


@pytest.mark.parametrize(
    ("options", "error", "words"),
    [
        (EngineOptions("x", kv_gb=40), CapacityError, r"--kv-gb 40 exceeds the 22.0 GiB free after weights"),
        (EngineOptions("x", kv_gb=-1), UsageError, "--kv-gb -1"),
        (EngineOptions("x", kv_gb=float("nan")), UsageError, "--kv-gb nan"),
        (EngineOptions("x", kv_gb=1e-9), CapacityError, "--kv-gb 9.54e-07 or more"),
        (EngineOptions("x", page_size=0), UsageError, "--page-size 0"),
        (EngineOptions("x", max_model_len=5000), UsageError, "--max-model-len 5000.*expected 2 to 4096"),
        (EngineOptions("x", max_model_len=-1), UsageError, "--max-model-len -1"),
    ],
)
def test_what_cannot_be_is_refused_by_flag_and_figure(
    options: EngineOptions, error: type[Exception], words: str
) -> None:
    with pytest.raises(error, match=words):
        size_cache(options, 4096, 1024, 22 * GIB)
