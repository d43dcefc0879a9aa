"""The wait of a collective that is emulated: never shorter than the link model says."""

import time

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from fullbore.kernels.delay import wait
from fullbore.kernels.torch.collectives import DelayAllReduce, DelayGather, DelayGatherColumns, DelayScatter
from fullbore.ops.collectives import seconds
from fullbore.parallel.collectives import Links
from fullbore.parallel.rank import Exchange

KERNELS = (DelayAllReduce, DelayGather, DelayGatherColumns, DelayScatter)


@settings(max_examples=20)
@given(st.floats(0, 3e-3))
def test_a_wait_is_not_shorter_than_asked(asked_s: float) -> None:
    begin = time.perf_counter()
    wait(asked_s)
    assert time.perf_counter() - begin >= asked_s


@pytest.mark.parametrize("kernel", KERNELS)
def test_a_collective_takes_what_the_link_model_says(kernel: type[DelayAllReduce]) -> None:
    exchange, made = Exchange(Links(4, "switch", 1e8, 1e-4), 2, 1), kernel("float32")
    x = torch.randn(64, 96)
    expected = seconds(kernel.operator, exchange, x)
    assert expected > 2e-4
    begin = time.perf_counter()
    made.run(made.pack(exchange), x)
    assert time.perf_counter() - begin >= expected


def test_sizes_are_those_of_the_step_time_model() -> None:
    links, hidden = Links(8, "mesh", 268e9, 15e-6), 7168
    x = torch.empty(20, hidden, dtype=torch.bfloat16)
    tp, dp = Exchange(links), Exchange(links, 8, 3)
    assert seconds("all_reduce", tp, x) == links.all_reduce_s(20 * hidden * 2)
    everywhere = links.gather_s(8 * 20 * hidden * 2)
    assert seconds("gather", dp, x) == everywhere
    assert seconds("scatter", dp, x.repeat(8, 1)) == everywhere
    logits = torch.empty(8 * 20, 129280 // 8, dtype=torch.bfloat16)
    assert seconds("gather_columns", dp, logits) == links.gather_s(20 * 129280 * 2)
