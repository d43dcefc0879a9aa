"""``greedy`` by every kernel: the first of the best, at any width, and no row that cannot be trusted."""

from typing import Any

import torch
from every_kernel import instances
from hypothesis import given, settings
from hypothesis import strategies as st

from fullbore.kernels.catalogue import CATALOGUE
from fullbore.ops.contract import DTYPES
from fullbore.ops.greedy import NOT_FINITE
from fullbore.ops.operators import OPERATORS

KERNELS = {
    dtype: [
        each for entry in CATALOGUE.on("cpu").candidates("greedy") for each in instances(entry.load(), dtype)
    ]
    for dtype in DTYPES
}
WRONG = st.sampled_from([float("nan"), float("inf"), float("-inf")])


@settings(max_examples=60, deadline=None)
@given(
    st.data(),
    st.integers(1, 5),
    st.integers(1, 700),
    st.sampled_from([1, 3, 1000]),
    st.sampled_from([*DTYPES]),
)
def test_tokens_are_the_references(data: Any, rows: int, vocab: int, values: int, dtype: str) -> None:
    """Few values make many ties; views are read where they lie; what is wrong with a row stays its own."""
    generator = torch.Generator().manual_seed(rows * vocab)
    stored = torch.randint(-values, values, (rows, vocab + 3), generator=generator) / 2
    logits = stored.to(DTYPES[dtype])[:, 3:]
    places = st.tuples(st.integers(0, rows - 1), st.integers(0, vocab - 1), WRONG)
    bad = data.draw(st.lists(places, max_size=2))
    for row, token, wrong in bad:
        logits[row, token] = wrong
    expected = OPERATORS["greedy"].reference((vocab,), logits)
    assert {row for row, token in enumerate(expected.tolist()) if token == NOT_FINITE} == {
        row for row, _, _ in bad
    }
    for name, kernel in KERNELS[dtype]:
        assert torch.equal(kernel.run(kernel.pack(vocab), logits), expected), name
