"""One token drawn from each row's distribution: temperature, ``top_k``, ``top_p``, ``min_p``, one number.

All of it works on the device, from tensors that came with the step. Where a row that cuts its distribution
may reach beyond its ``_DEPTH`` likeliest tokens, the host looks at one value and sorts that row's vocabulary.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

# top_k, top_p and min_p keep the best few tokens: looking at this many avoids sorting the vocabulary.
_DEPTH = 1024


class Draws(NamedTuple):
    """What rows that draw ask for, each [rows].

    temperature: float32, above 0; top_k: int64, the vocabulary's size where there is no such cut; top_p,
    min_p: float64; uniform: float64 in [0, 1), see ``uniforms``. ``whole`` and ``cut``: int64, which rows
    draw from all of the vocabulary and which cut it; together every row once, in order.
    """

    temperature: Tensor
    top_k: Tensor
    top_p: Tensor
    min_p: Tensor
    uniform: Tensor
    whole: Tensor
    cut: Tensor

    def of(self, rows: Tensor) -> "Draws":
        """Those of some rows, each of which cuts its distribution."""
        t, k, p, m, u = (each[rows] for each in self[:5])
        return Draws(t, k, p, m, u, rows[:0], rows)


def uniforms(seeds: Sequence[int], indices: Sequence[int]) -> npt.NDArray[np.float64]:
    """Numbers in [0, 1), each a function of its (seed, index) alone.

    Counter-based: the finaliser of SplitMix64 (Steele, Lea, Flood 2014) over the seed, then over
    the index in the seed's own sequence.
    """
    golden = np.uint64(0x9E3779B97F4A7C15)
    seed = np.array([value & 0xFFFF_FFFF_FFFF_FFFF for value in seeds], dtype=np.uint64)
    index = np.array(indices, dtype=np.uint64)
    bits = _mix(_mix(seed + golden) + (index + np.uint64(1)) * golden)
    return (bits >> np.uint64(11)).astype(np.float64) * 2.0**-53


def _mix(z: npt.NDArray[np.uint64]) -> npt.NDArray[np.uint64]:
    z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return z ^ (z >> np.uint64(31))


def draw(logits: Tensor, wishes: Draws) -> Tensor:
    """One token a row, [rows] int64, from ``logits`` [rows, vocab] float32.

    A row that is not finite gets any token of the vocabulary.
    """
    # Subtracting the best first keeps the smallest temperatures from overflowing.
    scaled = (logits - logits.amax(dim=1, keepdim=True)) / wishes.temperature.clamp(min=1e-30)[:, None]
    probabilities = torch.softmax(scaled, dim=1)  # [rows, vocab]
    whole, cut = wishes.whole, wishes.cut
    if not len(cut):
        return _invert(probabilities.double().cumsum(dim=1), wishes.uniform)
    if not len(whole):
        return _draw_best(probabilities, wishes)
    tokens = torch.empty_like(wishes.top_k)
    tokens[whole] = _invert(probabilities[whole].double().cumsum(dim=1), wishes.uniform[whole])
    tokens[cut] = _draw_best(probabilities[cut], wishes.of(cut))
    return tokens


def _draw_best(probabilities: Tensor, wishes: Draws) -> Tensor:
    """As ``draw``, for rows that cut the distribution; sorts the vocabulary only where it must."""
    vocab = probabilities.shape[1]
    depth = min(vocab, _DEPTH)
    values, ids = ranked(probabilities, depth)
    kept = kept_tokens(values, wishes, vocab)
    last = values.gather(1, kept[:, None] - 1)[:, 0]
    # The cut lies beyond the depth, or among tokens that tie with some beyond it. Which of those that are
    # never drawn are kept does not matter.
    unsure = ((wishes.top_k > depth) & (wishes.top_k < vocab)) | ((last == values[:, -1]) & (last > 0))
    tokens = _choose(values, ids, kept, wishes.uniform)
    if depth < vocab and bool(unsure.any()):
        deep = unsure.nonzero()[:, 0]
        values, ids = ranked(probabilities[deep], vocab)
        theirs = wishes.of(deep)
        tokens[deep] = _choose(values, ids, kept_tokens(values, theirs, vocab), theirs.uniform)
    return tokens


def ranked(probabilities: Tensor, depth: int) -> tuple[Tensor, Tensor]:
    """The ``depth`` likeliest tokens of each row, (values, ids); ties in the order of ids."""
    if depth == probabilities.shape[1]:
        values, ids = torch.sort(probabilities, dim=1, descending=True, stable=True)
        return values, ids
    ids = torch.topk(probabilities, depth, dim=1, sorted=False).indices.sort(dim=1).values
    values, order = torch.sort(probabilities.gather(1, ids), dim=1, descending=True, stable=True)
    return values, ids.gather(1, order)


def kept_tokens(values: Tensor, wishes: Draws, vocab: int) -> Tensor:
    """How many of ``values`` [rows, depth], probabilities in falling order, each row keeps: [rows], >= 1.

    top_k: the k best. top_p: the fewest of those whose mass reaches top_p of theirs. min_p: of those,
    the ones at least min_p times as likely as the best.
    """
    depth = values.shape[1]
    exact = values.double()
    k, top_p, min_p = wishes.top_k, wishes.top_p, wishes.min_p
    mass = exact.cumsum(dim=1)
    within = k.clamp(max=depth)
    of_top_k = mass.gather(1, within[:, None] - 1)[:, 0]
    wanted = top_p * torch.where(k < vocab, of_top_k, 1.0)
    # A token is kept while the mass before it is short of what is wanted; at 1.0 rounding must cut nothing.
    before = torch.nn.functional.pad(mass[:, :-1], (1, 0))
    by_mass = torch.where(top_p < 1.0, (before < wanted[:, None]).sum(dim=1), depth)
    by_best = (exact >= min_p[:, None] * exact[:, :1]).sum(dim=1)
    # Of a row that is not finite no token compares.
    return torch.minimum(torch.minimum(within, by_mass), by_best).clamp_min(1)


def _choose(values: Tensor, ids: Tensor, kept: Tensor, uniform: Tensor) -> Tensor:
    """The token that ``uniform`` [rows] falls on among the first ``kept`` of each row."""
    mass = values.double().cumsum(dim=1)
    total = mass.gather(1, kept[:, None] - 1)
    return ids.gather(1, _invert(torch.minimum(mass, total), uniform)[:, None])[:, 0]


def _invert(mass: Tensor, uniform: Tensor) -> Tensor:
    """The first index at which the running ``mass`` [rows, n] float64 exceeds uniform x total: [rows]."""
    total = mass[:, -1:]
    target = torch.minimum(uniform[:, None] * total, torch.nextafter(total, torch.zeros_like(total)))
    return torch.searchsorted(mass, target, right=True)[:, 0].clamp_max(mass.shape[1] - 1)
