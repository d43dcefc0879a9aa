"""``mla_prefill``, ``mla_decode``: multi-head latent attention over a paged cache.

DeepSeek-V2 report, section 2.1. The cache keeps one row a token and layer, shared by all heads: the
normalised latent c (kv_lora_rank values), then the rotated key k_rope, in one of the ways of ``ops.cache``;
the operator ``latents`` writes it. ``kv_b`` makes from c each head's key part W_UK c and value W_UV c.
Kernels may multiply it into query and output instead (absorption). Attention is held to what the cache
holds; what was lost on the way there is no error of its kernels.
"""

from dataclasses import dataclass

import torch
from torch import Generator, Tensor

from fullbore.ops.cache import CacheRow
from fullbore.ops.contract import Case, Cost, Operator, Shape, Tolerance
from fullbore.ops.draws import ARITHMETIC, WEIGHT_FORMATS, draw_weight
from fullbore.ops.formats import Weight, matrix_bytes, value_bytes

PAGE = 4  # tokens a page in drawn cases unless ``shape`` has a "page": small, so that contexts span pages


@dataclass(frozen=True)
class Heads:
    """``count``: num_attention_heads; nope, rope, v: qk_nope_head_dim, qk_rope_head_dim, v_head_dim;
    latent: kv_lora_rank; softmax_scale: with YaRN's mscale; kv_bits: of a latent in the cache (``CacheRow``).
    """

    count: int
    nope: int
    rope: int
    v: int
    latent: int
    softmax_scale: float
    kv_bits: int = 0

    @property
    def row(self) -> CacheRow:
        """A token in the cache."""
        return CacheRow(self.latent, self.rope, self.kv_bits)


def _describe(kv_b: Weight, heads: Heads) -> tuple[Shape, str]:
    return {"heads": heads.count, "nope": heads.nope, "v": heads.v, **heads.row.sizes}, kv_b.format


def _prefill_reference(
    weights: tuple[Weight, Heads], q: Tensor, cache: Tensor, pages: Tensor, first: int
) -> Tensor:
    """q: [tokens, heads, nope + rope], rotated, of positions first, first + 1, ... of one request whose
    cache rows up to the last of them are written; cache: [pages, page_size, width of a row];
    pages: [n] page numbers -> [tokens, heads * v].
    """
    kv_b, h = weights
    rows = h.row.decode(cache[pages.long()].flatten(0, 1)[: first + len(q)])  # [keys, latent + rope]
    latent, k_rope = torch.split(rows, [h.latent, h.rope], dim=-1)
    expanded = (latent @ kv_b.dequantise(torch.float32).T).view(-1, h.count, h.nope + h.v)
    k_nope, v = torch.split(expanded, [h.nope, h.v], dim=-1)  # [keys, heads, nope], [keys, heads, v]
    k = torch.cat([k_nope, k_rope[:, None].expand(-1, h.count, -1)], dim=-1)
    scores = torch.einsum("thd,khd->htk", q.float(), k) * h.softmax_scale
    future = torch.arange(len(rows)) > first + torch.arange(len(q))[:, None]
    attention = scores.masked_fill(future, float("-inf")).softmax(-1)
    return torch.einsum("htk,khv->thv", attention, v).flatten(1)


def _decode_reference(
    weights: tuple[Weight, Heads], q: Tensor, cache: Tensor, table: Tensor, contexts: Tensor
) -> Tensor:
    """q: [rows, heads, nope + rope], one token of each request; table: [rows, max_pages];
    contexts: [rows] keys visible to each, itself included -> [rows, heads * v].
    """
    rows = zip(q, table, contexts.tolist(), strict=True)
    return torch.cat(
        [_prefill_reference(weights, token[None], cache, pages, n - 1) for token, pages, n in rows]
    )


def _prefill_cost(shape: Shape, format: str, dtype: str) -> Cost:
    """``shape``: tokens new ones after ``first`` cached. The cheaper of absorbed and expanded arithmetic."""
    tokens, keys, heads = shape["tokens"], shape["first"] + shape["tokens"], shape["heads"]
    latent, nope, rope, v = shape["latent"], shape["nope"], shape["rope"], shape["v"]
    pairs = heads * (tokens * shape["first"] + tokens * (tokens + 1) // 2)
    project = 2 * heads * latent * (nope + v)  # of one token, by kv_b
    absorbed = 2 * pairs * (2 * latent + rope) + tokens * project
    expanded = 2 * pairs * (nope + rope + v) + keys * project
    bytes = keys * CacheRow.of(shape).bytes(dtype) + tokens * _token_bytes(shape, dtype)
    return Cost(min(absorbed, expanded), bytes + _kv_b_bytes(shape, format))


def _decode_cost(shape: Shape, format: str, dtype: str) -> Cost:
    """``shape``: rows requests with ``context`` keys each."""
    rows, keys, heads = shape["rows"], shape["rows"] * shape["context"], shape["heads"]
    latent, nope, rope, v = shape["latent"], shape["nope"], shape["rope"], shape["v"]
    flops = 2 * heads * (keys * (2 * latent + rope) + rows * latent * (nope + v))
    bytes = keys * CacheRow.of(shape).bytes(dtype) + rows * _token_bytes(shape, dtype)
    return Cost(flops, bytes + _kv_b_bytes(shape, format))


def _token_bytes(shape: Shape, dtype: str) -> int:
    """A token's queries and its output."""
    return shape["heads"] * (shape["nope"] + shape["rope"] + shape["v"]) * value_bytes(dtype)


def _kv_b_bytes(shape: Shape, format: str) -> int:
    return matrix_bytes(shape["heads"] * (shape["nope"] + shape["v"]), shape["latent"], format)


def _draw_weights(shape: Shape, format: str, generator: Generator) -> tuple[Weight, Heads]:
    count, nope, rope, v = (shape[key] for key in ("heads", "nope", "rope", "v"))
    scale, bits = (nope + rope) ** -0.5, shape.get("kv_bits", 0)
    heads = Heads(count, nope, rope, v, shape["latent"], softmax_scale=scale, kv_bits=bits)
    return draw_weight(heads.count * (heads.nope + heads.v), heads.latent, format, generator), heads


def draw_cache(pages: int, shape: Shape, dtype: torch.dtype, generator: Generator) -> Tensor:
    """[pages, page_size, width of a row]."""
    row, size = CacheRow.of(shape), shape.get("page", PAGE)
    values = torch.randn(pages * size, row.latent + row.rope, generator=generator).to(dtype)
    return row.encode(values[:, : row.latent], values[:, row.latent :]).view(pages, size, -1)


def _draw_queries(tokens: int, shape: Shape, case: str, dtype: torch.dtype, generator: Generator) -> Tensor:
    """Rows of 1e-4 .. 10: beyond that a softmax of rounded scores has no relative accuracy to speak of."""
    q = torch.randn(tokens, shape["heads"], shape["nope"] + shape["rope"], generator=generator)
    if case == "extreme_scales":
        q *= 10.0 ** (5 * torch.rand(tokens, 1, 1, generator=generator) - 4)
    return q.to(dtype)


def _prefill_draw(shape: Shape, case: str, format: str, dtype: torch.dtype, generator: Generator) -> Case:
    tokens = 1 if case == "one_token" else shape["tokens"]
    first = 0 if case == "no_prefix" else shape["first"]
    needed = -(-(first + tokens) // shape.get("page", PAGE))
    cache = draw_cache(2 * needed + 3, shape, dtype, generator)
    pages = torch.randperm(len(cache), generator=generator)[:needed].int()
    q = _draw_queries(tokens, shape, case, dtype, generator)
    return Case(_draw_weights(shape, format, generator), (q, cache, pages, first))


def _decode_draw(shape: Shape, case: str, format: str, dtype: torch.dtype, generator: Generator) -> Case:
    rows = 1 if case == "one_token" else shape["rows"]
    contexts = torch.randint(1, shape["context"] + 1, (rows,), generator=generator)
    if case == "skewed":  # one long context among short ones
        contexts = torch.ones(rows, dtype=torch.int64)
        contexts[rows // 2] = shape["context"]
    if case == "even":
        contexts = torch.full((rows,), shape["context"])
    page = shape.get("page", PAGE)
    cache = draw_cache(rows * -(-shape["context"] // page) + 3, shape, dtype, generator)
    free = torch.randperm(len(cache), generator=generator).tolist()
    table = torch.zeros(rows, -(-int(contexts.max()) // page), dtype=torch.int32)
    for row, context in enumerate(contexts.tolist()):
        for column in range(-(-context // page)):
            table[row, column] = free.pop()
    q = _draw_queries(rows, shape, case, dtype, generator)
    return Case(_draw_weights(shape, format, generator), (q, cache, table, contexts.int()))


_SHAPES = (
    {"heads": 4, "nope": 32, "rope": 16, "v": 32, "latent": 64},
    {"heads": 3, "nope": 20, "rope": 6, "v": 12, "latent": 33},  # nothing a multiple of anything
    {"heads": 16, "nope": 16, "rope": 8, "v": 24, "latent": 136},
    {"heads": 2, "nope": 128, "rope": 16, "v": 128, "latent": 160},  # no block of fp8_block in two heads
    {"heads": 4, "nope": 32, "rope": 16, "v": 32, "latent": 256, "kv_bits": 8},
    {"heads": 3, "nope": 20, "rope": 6, "v": 12, "latent": 133, "kv_bits": 8},
    {"heads": 3, "nope": 20, "rope": 6, "v": 12, "latent": 33, "kv_bits": 16},
)

_TOLERANCE = {
    "float32": ARITHMETIC["float32"],
    "bfloat16": Tolerance(
        6e-2, "scores of size 10 carry an error of 0.02 into the exponent; outputs average out"
    ),
}

MLA_PREFILL = Operator(
    name="mla_prefill",
    reference=_prefill_reference,
    describe=_describe,
    cost=_prefill_cost,
    draw=_prefill_draw,
    cases=("random", "no_prefix", "extreme_scales", "one_token"),
    formats=WEIGHT_FORMATS,
    shapes=tuple(
        shape | {"tokens": t, "first": f}
        for shape, t, f in zip(_SHAPES, (40, 9, 300, 20, 9, 40, 9), (300, 5, 17, 50, 300, 5, 70), strict=True)
    ),
    tolerance=_TOLERANCE,
)

MLA_DECODE = Operator(
    name="mla_decode",
    reference=_decode_reference,
    describe=_describe,
    cost=_decode_cost,
    draw=_decode_draw,
    cases=("random", "skewed", "even", "extreme_scales", "one_token"),
    formats=WEIGHT_FORMATS,
    shapes=tuple(
        shape | {"rows": r, "context": c}
        for shape, r, c in zip(_SHAPES, (6, 5, 3, 7, 6, 5, 3), (70, 13, 700, 90, 300, 70, 70), strict=True)
    ),
    tolerance=_TOLERANCE,
    timed="even",
)
