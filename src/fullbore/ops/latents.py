"""``latents``: what attention keeps of a token, from its down-projections (DeepSeek-V2 report, section 2.1).

The compressed queries and the compressed keys and values are normalised, each by its own weight; the part of
the key that carries the position is rotated. The latter two become the token's row of the paged cache, in
one of the ways of ``ops.cache``; what that format rounds away is no error of a kernel.
"""

import torch
from torch import Generator, Tensor

from fullbore.ops.attention import draw_cache
from fullbore.ops.cache import CacheRow
from fullbore.ops.contract import Case, Cost, Operator, Shape, Tolerance, worst_row_error
from fullbore.ops.draws import ARITHMETIC, draw_rows
from fullbore.ops.formats import value_bytes
from fullbore.ops.norm import RMS_NORM
from fullbore.ops.rope import ROPE

Weights = tuple[
    Tensor | None, Tensor, float, CacheRow
]  # q_norm [q], None where queries are not compressed; kv_norm; eps; how the cache keeps a token
Reference = tuple[Tensor, Tensor, CacheRow]


def _describe(q_norm: Tensor | None, kv_norm: Tensor, eps: float, row: CacheRow) -> tuple[Shape, str]:
    return {"q": 0 if q_norm is None else len(q_norm), **row.sizes}, "none"


def _reference(
    weights: Weights, x: Tensor, cos: Tensor, sin: Tensor, cache: Tensor, slots: Tensor
) -> Reference:
    """x: [tokens, n >= q + latent + rope], the queries' part first and the others last; cos, sin:
    [tokens, rope / 2] float32; cache: [pages, page_size, width of a row]; slots: [tokens] int64, page *
    page_size + offset -> the queries' latents [tokens, q] and ``cache`` with a row written for each token.

    Kernels write ``cache`` in place and return it. The reference returns the values of a copy, [pages,
    page_size, latent + rope], the new ones as they are before they are encoded, and the row that rounds them.
    """
    q_norm, kv_norm, eps, row = weights
    q = x[:, :0].float() if q_norm is None else RMS_NORM.reference((q_norm, eps), x[:, : len(q_norm)])
    latent, rope = torch.split(x[:, -row.latent - row.rope :], [row.latent, row.rope], dim=-1)
    latent = RMS_NORM.reference((kv_norm, eps), latent)
    rope = ROPE.reference((), rope[:, None], cos, sin)[:, 0]
    written = row.decode(cache).clone()
    written.view(-1, row.latent + row.rope)[slots] = torch.cat([latent, rope], dim=-1)
    return q, written, row


def _cost(shape: Shape, format: str, dtype: str) -> Cost:
    tokens, rope, normalised = shape["tokens"], shape["rope"], shape["q"] + shape["latent"]
    values = 2 * shape["q"] + shape["latent"] + rope
    moved = values * value_bytes(dtype) + CacheRow.of(shape).bytes(dtype) + 4 * rope + 8
    return Cost(tokens * (4 * normalised + 3 * rope), tokens * moved + 4 * normalised)


def _draw(shape: Shape, case: str, format: str, dtype: torch.dtype, generator: Generator) -> Case:
    """Rotated keys keep their scale beside latents, so that neither hides the other's errors."""
    norms = [1.0 + 0.3 * torch.randn(shape[part], generator=generator) for part in ("q", "latent")]
    latents = draw_rows(shape["tokens"], shape["q"] + shape["latent"], case, dtype, generator)
    rope = draw_rows(len(latents), shape["rope"], "random", dtype, generator)
    angle = 1000 * torch.rand(len(latents), shape["rope"] // 2, generator=generator)
    cache = draw_cache(shape["tokens"], shape, dtype, generator)
    slots = torch.randperm(cache.shape[0] * cache.shape[1], generator=generator)[: len(latents)]
    q_norm = norms[0] if shape["q"] else None
    x = torch.cat([latents, rope], dim=-1)
    return Case((q_norm, norms[1], 1e-6, CacheRow.of(shape)), (x, angle.cos(), angle.sin(), cache, slots))


def _error(output: tuple[Tensor, Tensor] | Reference, reference: Reference) -> float:
    """Of the queries, and of the cache's values beyond their rounding: at the border between two codes a
    value may become either."""
    (q, cache, *encoded), (q_expected, expected, row) = output, reference
    difference = (cache if encoded else row.decode(cache)) - expected
    beyond = (difference.abs() - row.rounding(expected)).clamp_min(0.0)
    errors = [worst_row_error(expected.double() + beyond, expected)]
    return max(errors + ([worst_row_error(q, q_expected)] if q_expected.numel() else []))


LATENTS = Operator(
    name="latents",
    reference=_reference,
    describe=_describe,
    cost=_cost,
    draw=_draw,
    cases=("random", "extreme_scales", "one_token"),
    formats=("none",),
    shapes=(
        {"tokens": 9, "q": 48, "latent": 64, "rope": 16},
        {"tokens": 3, "q": 0, "latent": 33, "rope": 6},
        {"tokens": 6, "q": 35, "latent": 20, "rope": 34},
        {"tokens": 9, "q": 48, "latent": 256, "rope": 16, "kv_bits": 8},
        {"tokens": 5, "q": 0, "latent": 133, "rope": 6, "kv_bits": 8},
        {"tokens": 3, "q": 35, "latent": 33, "rope": 6, "kv_bits": 16},
    ),
    tolerance={
        "float32": ARITHMETIC["float32"],
        "bfloat16": Tolerance(2**-8, "computed in float32; only the output is rounded"),
    },
    error=_error,
)
