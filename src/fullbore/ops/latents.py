"""``latents``: what attention keeps of a token, from its down-projections (DeepSeek-V2 report, section 2.1).

The compressed queries and the compressed keys and values are normalised, each by its own weight; the part of
the key that carries the position is rotated. The latter two become the token's row of the paged cache.
"""

import torch
from torch import Generator, Tensor

from fullbore.ops.attention import draw_cache
from fullbore.ops.contract import Case, Cost, Operator, Shape, Tolerance, worst_row_error
from fullbore.ops.draws import ARITHMETIC, draw_rows
from fullbore.ops.formats import value_bytes
from fullbore.ops.norm import RMS_NORM
from fullbore.ops.rope import ROPE

Weights = tuple[
    Tensor | None, Tensor, float
]  # q_norm [q], None where queries are not compressed; kv_norm; eps


def _describe(q_norm: Tensor | None, kv_norm: Tensor, eps: float) -> tuple[Shape, str]:
    return {"q": 0 if q_norm is None else len(q_norm), "latent": len(kv_norm)}, "none"


def _reference(
    weights: Weights, x: Tensor, cos: Tensor, sin: Tensor, cache: Tensor, slots: Tensor
) -> tuple[Tensor, Tensor]:
    """x: [tokens, n >= q + latent + rope], the queries' part first and the others last; cos, sin:
    [tokens, rope / 2] float32; cache: [pages, page_size, latent + rope]; slots: [tokens] int64, page *
    page_size + offset -> the queries' latents [tokens, q] and ``cache`` with a row written for each token.

    Kernels write ``cache`` in place and return it; the reference returns a copy.
    """
    q_norm, kv_norm, eps = weights
    q = x[:, :0].float() if q_norm is None else RMS_NORM.reference((q_norm, eps), x[:, : len(q_norm)])
    latent, rope = torch.split(x[:, -cache.shape[-1] :], [len(kv_norm), 2 * cos.shape[-1]], dim=-1)
    latent = RMS_NORM.reference((kv_norm, eps), latent)
    rope = ROPE.reference((), rope[:, None], cos, sin)[:, 0]
    written = cache.to(torch.float32, copy=True)
    written.view(-1, cache.shape[-1])[slots] = torch.cat([latent, rope], dim=-1)
    return q, written


def _cost(shape: Shape, format: str, dtype: str) -> Cost:
    tokens, rope, normalised = shape["tokens"], shape["rope"], shape["q"] + shape["latent"]
    moved = 2 * (normalised + rope) * value_bytes(dtype) + 4 * rope + 8
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
    return Case((q_norm, norms[1], 1e-6), (x, angle.cos(), angle.sin(), cache, slots))


def _error(output: tuple[Tensor, Tensor], reference: tuple[Tensor, Tensor]) -> float:
    pairs = zip(output, reference, strict=True)
    return max(worst_row_error(each, expected) for each, expected in pairs if expected.numel())


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
    ),
    tolerance={
        "float32": ARITHMETIC["float32"],
        "bfloat16": Tolerance(2**-8, "computed in float32; only the output is rounded"),
    },
    error=_error,
)
