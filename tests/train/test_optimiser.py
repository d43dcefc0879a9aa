"""Muon and AdamW, each beside an independent statement of what it does."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from fullbore.train.demo import Recipe, model_config
from fullbore.train.network import DemoNetwork
from fullbore.train.optimiser import Optimiser, orthogonalise


def polar(matrix: Tensor) -> Tensor:
    """The nearest matrix with all singular values 1."""
    u, _, vh = torch.linalg.svd(matrix, full_matrices=False)
    return u @ vh


@settings(max_examples=30)
@given(st.integers(2, 40), st.integers(2, 40), st.integers(1, 4), st.integers(0, 99), st.floats(1e-4, 1e4))
def test_orthogonalised_matrices_keep_directions_and_even_out_lengths(
    rows: int, columns: int, count: int, seed: int, size: float
) -> None:
    """Whatever their size: singular values of a fifth of the greatest or more come near 1."""
    generator = torch.Generator().manual_seed(seed)
    even = polar(torch.randn(count, rows, columns, generator=generator))
    short = min(rows, columns)
    u, _, vh = torch.linalg.svd(even, full_matrices=False)
    values = 0.2 + 0.8 * torch.rand(count, short, generator=generator)
    matrices = size * (u * values[:, None]) @ vh
    result = orthogonalise(matrices)
    assert result.shape == matrices.shape
    found = torch.linalg.svdvals(result)
    assert float(found.min()) > 0.5
    assert float(found.max()) < 1.3
    turned = u.mT @ result @ vh.mT  # diagonal where the singular vectors are the same
    off = turned - torch.diag_embed(turned.diagonal(dim1=1, dim2=2))
    assert float(off.abs().max()) < 1e-3
    assert float(turned.diagonal(dim1=1, dim2=2).min()) > 0.5


def test_matrices_of_a_batch_are_orthogonalised_one_by_one() -> None:
    matrices = (
        torch.randn(3, 6, 9, generator=torch.Generator().manual_seed(1))
        * torch.tensor([1e3, 1, 1e-3])[:, None, None]
    )
    together = orthogonalise(matrices)
    for one, alone in zip(together, matrices, strict=True):
        assert torch.allclose(one, orthogonalise(alone[None])[0], atol=1e-5)


def test_a_gradient_of_zeros_stays_zero() -> None:
    assert not bool(orthogonalise(torch.zeros(2, 4, 5)).any())


@pytest.fixture
def network(tiny: Recipe) -> DemoNetwork:
    return DemoNetwork(model_config(tiny), 1)


def test_every_parameter_has_one_optimiser_and_matrices_of_layers_have_muon(network: DemoNetwork) -> None:
    optimiser = Optimiser(network, 0.1, 0.01, 0.0)
    names = {name for name, _ in network.named_parameters()}
    assert optimiser.muon.keys() | optimiser.adam.keys() == names
    assert not optimiser.muon.keys() & optimiser.adam.keys()
    for name in names:
        layer = "_proj" in name  # of attention, MLPs, experts, and eh_proj
        assert (name in optimiser.muon) == layer, name
    by_adam = ("main.lm_head.weight", "main.model.embed_tokens.weight", "mtp.norm.weight")
    assert all(name in optimiser.adam for name in by_adam)


def test_the_rest_moves_as_torchs_adam_does() -> None:
    """No decay; and the counts of what has no gradient (the MTP layer, most steps) stand still."""
    generator = torch.Generator().manual_seed(7)

    class Norms(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.always = nn.Parameter(torch.ones(5))
            self.seldom = nn.Parameter(torch.ones(3))

    ours, theirs = Norms(), Norms()
    optimiser = Optimiser(ours, 0.0, 0.01, weight_decay=0.5)
    adam = torch.optim.Adam(theirs.parameters(), lr=0.01, betas=(0.9, 0.98), eps=1e-8)
    for step in range(9):
        for name in ("always", "seldom") if step % 4 == 0 else ("always",):
            gradient = torch.randn(getattr(ours, name).shape, generator=generator)
            getattr(ours, name).grad, getattr(theirs, name).grad = gradient.clone(), gradient.clone()
        for group in adam.param_groups:
            group["lr"] = 0.01 * (step + 1) / 9
        optimiser.step((step + 1) / 9)
        adam.step()
        adam.zero_grad(set_to_none=True)
        assert ours.always.grad is None
        assert torch.allclose(ours.always, theirs.always, atol=1e-6)
        assert torch.allclose(ours.seldom, theirs.seldom, atol=1e-6)


def test_muon_moves_every_matrix_by_its_rate_alone(network: DemoNetwork) -> None:
    """However large the gradient; experts each for themselves, gate and up each for itself."""
    rate, decay = 0.1, 0.25
    optimiser = Optimiser(network, rate, 0.01, decay)
    before = {name: weight.detach().clone() for name, weight in optimiser.muon.items()}
    generator = torch.Generator().manual_seed(3)
    for number, weight in enumerate(optimiser.muon.values()):
        weight.grad = 10.0 ** (number % 7 - 3) * torch.randn(weight.shape, generator=generator)
    gradients = {
        name: weight.grad.clone() for name, weight in optimiser.muon.items() if weight.grad is not None
    }
    optimiser.step(0.5)
    for name, weight in optimiser.muon.items():
        assert weight.grad is None
        moved = weight.detach() - (1 - 0.5 * rate * decay) * before[name]
        parts = 2 if "gate_up" in name else 1
        rows, columns = weight.shape[-2] // parts, weight.shape[-1]
        moves = moved.reshape(-1, rows, columns) / (-0.5 * rate * 0.2 * max(rows, columns) ** 0.5)
        for move, gradient in zip(moves, gradients[name].reshape(-1, rows, columns), strict=True):
            # the first update is along the gradient, all of its directions alike
            share = float((move * polar(gradient)).sum()) / min(rows, columns)
            assert 0.6 < share < 1.2, name
            assert float(torch.linalg.svdvals(move).max()) < 1.3


def test_muon_remembers_where_it_was_going(network: DemoNetwork) -> None:
    optimiser = Optimiser(network, 0.1, 0.01, 0.0)
    name, weight = next(iter(optimiser.muon.items()))
    gradient = torch.randn(weight.shape, generator=torch.Generator().manual_seed(3))
    for _ in range(30):
        weight.grad = gradient.clone()
        optimiser.step(1.0)
    before = weight.detach().clone()
    weight.grad = -0.2 * gradient  # one small pull the other way does not turn it
    optimiser.step(1.0)
    assert float(((weight.detach() - before) * gradient).sum()) < 0
    assert name in optimiser.muon
