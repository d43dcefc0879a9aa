"""``sample``: one token drawn from each row of logits, for one number in [0, 1).

logits / temperature, softmax, then ``top_k``, ``top_p`` of what is left, and ``min_p`` relative to the best
token. The number picks the token at which the running mass of what is kept first exceeds that share of it:
in the order of ids where nothing is cut, else the likeliest first and equals by their ids.
"""

import torch
from torch import Generator, Tensor

from fullbore.ops.contract import Case, Cost, Operator, Shape, Tolerance
from fullbore.ops.draws import draw_rows
from fullbore.ops.formats import value_bytes

COLDEST = 1e-30  # a temperature below is taken for this one


def _describe(vocab: int) -> tuple[Shape, str]:
    return {"vocab": vocab}, "none"


def _reference(
    weights: tuple[int],
    logits: Tensor,
    temperature: Tensor,
    top_k: Tensor,
    top_p: Tensor,
    min_p: Tensor,
    uniform: Tensor,
) -> tuple[Tensor, Tensor]:
    """logits: [rows, vocab], finite or -inf for what is barred; temperature: [rows] float32, above 0; top_k:
    [rows] int64, the vocabulary's size for all; top_p, min_p, uniform: [rows] float64.

    -> tokens [rows], which is what a kernel returns, and how far each number is from each token's share
    [rows, vocab]: of two tokens side by side rounding may give either.
    """
    (vocab,) = weights
    exact = logits.double()
    scaled = (exact - exact.amax(1, keepdim=True)) / temperature.double().clamp_min(COLDEST)[:, None]
    cut = (top_k < vocab) | (top_p < 1) | (min_p > 0)
    order = torch.where(cut[:, None], exact, 0.0).sort(dim=1, descending=True, stable=True).indices
    share = scaled.softmax(1).gather(1, order)
    after = share.cumsum(1)
    before = after - share
    mass_of_k = after.gather(1, top_k[:, None] - 1)
    by_mass = (before < top_p[:, None] * mass_of_k).sum(1)
    by_best = (share >= min_p[:, None] * share[:, :1]).sum(1)
    kept = torch.where(top_p < 1, by_mass, vocab).minimum(by_best).minimum(top_k).clamp_min(1)
    total = after.gather(1, torch.where(cut, kept, vocab)[:, None] - 1)
    target = uniform[:, None] * total
    misses = (before - target).maximum(target - after).clamp_min(0.0) / total
    first = (after <= target).sum(1, keepdim=True).minimum(torch.where(cut, kept, vocab)[:, None] - 1)
    return order.gather(1, first)[:, 0], torch.zeros_like(misses).scatter(1, order, misses)


def _cost(shape: Shape, format: str, dtype: str) -> Cost:
    values = shape["rows"] * shape["vocab"]
    return Cost(4 * values, values * value_bytes(dtype) + 44 * shape["rows"])


def _draw(shape: Shape, case: str, format: str, dtype: torch.dtype, generator: Generator) -> Case:
    """Rows take turns at cutting nothing, and by one or several of the three. ``ties``: many tokens are
    equally likely; ``edges``: numbers are 0 or just below 1."""
    logits = 3.0 * draw_rows(shape["rows"], shape["vocab"], case, torch.float32, generator)
    if case == "ties":
        logits = logits.clamp(-4.0, 4.0).round()
    rows, vocab = logits.shape
    turn = torch.arange(rows) % 8
    top_k = torch.where(turn & 1 > 0, torch.randint(1, vocab + 1, (rows,), generator=generator), vocab)
    top_p, min_p, uniform = torch.rand(3, rows, dtype=torch.float64, generator=generator)
    if case == "edges":
        uniform = uniform.round().clamp_max(1 - 2.0**-53)
    top_p = torch.where(turn & 2 > 0, top_p.clamp_min(0.01), 1.0)
    min_p = torch.where(turn & 4 > 0, 0.1 * min_p, 0.0)
    temperature = 0.3 + torch.rand(rows, generator=generator)
    return Case((shape["vocab"],), (logits.to(dtype), temperature, top_k, top_p, min_p, uniform))


def _error(output: Tensor | tuple[Tensor, Tensor], reference: tuple[Tensor, Tensor]) -> float:
    """How far the numbers are from the shares of the tokens that came out, in mass, at worst."""
    tokens = output[0] if isinstance(output, tuple) else output
    return float(reference[1].gather(1, tokens[:, None]).max())


SAMPLE = Operator(
    name="sample",
    reference=_reference,
    describe=_describe,
    cost=_cost,
    draw=_draw,
    cases=("random", "ties", "edges", "extreme_scales", "one_token"),
    formats=("none",),
    shapes=({"rows": 8, "vocab": 1000}, {"rows": 9, "vocab": 37}, {"rows": 2, "vocab": 4500}),
    tolerance={
        dtype: Tolerance(1e-5, "exponentials are float32, and so are sums of some thousand of them")
        for dtype in ("float32", "bfloat16")
    },
    error=_error,
)
