"""References of collectives and of drawn experts against loops over single values."""

from collections.abc import Iterator

import pytest
import torch
from torch import Generator

from fullbore.ops.collectives import COLLECTIVES, own_rows
from fullbore.ops.contract import Case
from fullbore.ops.operators import OPERATORS


def drawn(name: str, case: str = "random") -> Iterator[Case]:
    operator, generator = OPERATORS[name], Generator().manual_seed(4)
    for shape in operator.shapes:
        yield operator.draw(shape, case, "none", torch.float32, generator)


@pytest.mark.parametrize("name", COLLECTIVES)
def test_its_own_part_is_as_it_was(name: str) -> None:
    for case in drawn(name):
        (exchange,), (x,) = case.weights, case.inputs
        y = COLLECTIVES[name].reference(case.weights, x)
        groups, devices = exchange.groups, exchange.links.devices
        if name == "gather":
            assert y.shape == (groups * len(x), x.shape[1])
            assert torch.equal(own_rows(exchange, y), x)
        elif name == "scatter":
            assert torch.equal(y, x[exchange.own * len(y) : (exchange.own + 1) * len(y)])
            assert len(y) * groups == len(x)
        elif name == "gather_columns":
            assert y.shape == (len(x) // groups, devices * x.shape[1])
            for columns in y.chunk(devices, 1):
                assert torch.equal(columns, own_rows(exchange, x))
        else:
            assert torch.equal(y, x)


def test_tokens_of_other_groups_are_as_large_and_unlike() -> None:
    for case in drawn("gather"):
        (exchange,), (x,) = case.weights, case.inputs
        width, groups = x.shape[1], exchange.groups
        y = COLLECTIVES["gather"].reference(case.weights, x).view(groups, len(x), width)
        for group in range(groups):
            turn = (group - exchange.own) % groups * width // groups
            for column in range(width):
                assert torch.equal(y[group, :, column], x[:, (column + turn) % width])
        assert len({row.numpy().tobytes() for row in y.reshape(-1, width)}) == groups * len(x)


def test_choices_are_evenly_spaced_in_the_table() -> None:
    for case in drawn("draw_experts"):
        (table, k), (x,) = case.weights, case.inputs
        places = torch.arange(len(table), dtype=torch.int32)  # a table that tells where it was read
        found = OPERATORS["draw_experts"].reference((places, k), x)
        each = len(table) // k
        for row in found.tolist():
            assert [(one - row[0]) % len(table) for one in row] == [each * choice for choice in range(k)]
        chosen = OPERATORS["draw_experts"].reference((table, k), x)
        assert torch.equal(chosen, table[found].long())
