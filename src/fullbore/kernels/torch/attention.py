"""Latent attention with ``kv_b`` absorbed, by fixed blocks of keys; prefill and decode are one loop.

Every product has the same shape for a query row whatever the step looks like (8n rows against one block of
keys), and a row's blocks are folded in order, so a token gets the same bits from a prefill chunk of any size
as from a decode (see ``rows``). The fold is the online softmax of Milakov and Gimelshein (2018).
"""

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from fullbore.kernels.torch.rows import MULTIPLE, TorchKernel, pad, unpack, up
from fullbore.ops.attention import Heads
from fullbore.ops.cache import CacheRow
from fullbore.ops.formats import Weight

BLOCK_KEYS = 256  # fewer cost more calls at long contexts, more cost wasted arithmetic at short ones


class Absorbed(NamedTuple):
    """``key``: [heads, nope, latent], W_UK; ``value``: [heads, latent, v], W_UV; nope, v rounded up to 8."""

    key: Tensor
    value: Tensor
    heads: tuple[Heads]


class _LatentAttention(TorchKernel):
    layout = "torch_absorbed"

    def pack(self, kv_b: Weight, heads: Heads) -> Absorbed:
        # Split after dequantising: the borders of scale blocks are not the borders of heads.
        both = unpack(kv_b, self.dtype)[:, : heads.latent].view(heads.count, heads.nope + heads.v, -1)
        key = torch.zeros(heads.count, up(heads.nope), heads.latent, dtype=self.dtype)
        key[:, : heads.nope] = both[:, : heads.nope]
        value = torch.zeros(heads.count, heads.latent, up(heads.v), dtype=self.dtype)
        value[:, :, : heads.v] = both[:, heads.nope :].mT
        return Absorbed(key, value, (heads,))

    @staticmethod
    def queries(packed: Absorbed, q: Tensor) -> Tensor:
        """q: [tokens, heads, nope + rope] -> scaled queries on cache rows: [tokens, heads, latent + rope]."""
        (heads,) = packed.heads
        nope, rope = torch.split(q, [heads.nope, heads.rope], dim=-1)
        latent = torch.bmm(pad(nope.transpose(0, 1), packed.key.shape[1]), packed.key)[:, : len(q)].transpose(
            0, 1
        )
        return torch.cat([latent, rope], dim=-1).mul_(heads.softmax_scale)

    @staticmethod
    def values(packed: Absorbed, o: Tensor) -> Tensor:
        """o: [tokens, heads, latent] float32 -> [tokens, heads * v]."""
        (heads,) = packed.heads
        latent = pad(o.transpose(0, 1).to(packed.value.dtype), heads.latent)
        values = torch.bmm(latent, packed.value)[:, : len(o), : heads.v]  # [heads, tokens, v]
        return values.transpose(0, 1).flatten(1)


class TorchMlaDecode(_LatentAttention):
    operator = "mla_decode"

    def run(self, packed: Absorbed, q: Tensor, cache: Tensor, table: Tensor, contexts: Tensor) -> Tensor:
        """q: [rows, heads, nope + rope]; cache: [pages, page_size, width of a row];
        table: [rows, max_pages] int32; contexts: [rows] int32 -> [rows, heads * v].
        """
        (heads,) = packed.heads
        queries = self.queries(packed, q)
        queries = pad(queries, queries.shape[-1])  # [rows, up(heads), latent + rope]
        visible = contexts[:, None].expand(-1, queries.shape[1])
        attended = _attend(queries, cache, table, visible, heads.row)
        return self.values(packed, attended[:, : heads.count])


class TorchMlaPrefill(_LatentAttention):
    operator = "mla_prefill"

    def run(self, packed: Absorbed, q: Tensor, cache: Tensor, pages: Tensor, first: int) -> Tensor:
        """q: [tokens, heads, nope + rope] of positions from ``first`` on; cache: [pages, page_size,
        width of a row]; pages: [n] int32 -> [tokens, heads * v].
        """
        (heads,) = packed.heads
        tokens = len(q)
        queries = self.queries(packed, q).flatten(0, 1)
        queries = pad(queries, queries.shape[-1])  # [up(tokens * heads), latent + rope]
        visible = torch.arange(first + 1, first + tokens + 1).repeat_interleave(heads.count)
        visible = F.pad(visible, (0, len(queries) - len(visible)), value=first + tokens)
        attended = _attend(queries[None], cache, pages[None], visible[None], heads.row)[0]
        return self.values(packed, attended[: tokens * heads.count].view(tokens, heads.count, -1))


def _attend(queries: Tensor, cache: Tensor, table: Tensor, visible: Tensor, row: CacheRow) -> Tensor:
    """Softmax over the visible keys, times their latents.

    queries: [rows, m, latent + rope], m a multiple of 8; table: [rows, max_pages]; visible: [rows, m], how
    many of its row's keys a query sees (at least 1, never falling along m) -> [rows, m, latent] float32.
    """
    visible = visible.contiguous()
    page_size = cache.shape[1]
    block_pages = max(1, BLOCK_KEYS // page_size)
    block = block_pages * page_size
    contexts = visible[:, -1]  # [rows] keys of each row
    state = _State.empty(queries.shape[0], queries.shape[1], row.latent)
    for begin in range(0, int(contexts.max()), block):
        first_page = begin // page_size
        pages = table[:, first_page : first_page + block_pages]
        part, rows, start = state, None, 0
        if len(queries) == 1:  # one request: only its later queries see this block
            start = int(torch.searchsorted(visible[0], begin, right=True)) // MULTIPLE * MULTIPLE
        elif begin and int(contexts.min()) <= begin:  # some requests are shorter
            rows = torch.nonzero(contexts > begin).flatten()
            pages, part = pages[rows], state.rows(rows)
        part = part.tail(start)
        q, sees = (queries, visible) if rows is None else (queries[rows], visible[rows])
        keys = row.decode(_gather(cache, pages, block_pages), q.dtype)
        part.fold(q[:, start:], keys, sees[:, start:] - begin)
        if rows is not None:
            state.put(rows, part)
    return state.output.div_(state.total)


def _gather(cache: Tensor, pages: Tensor, block_pages: int) -> Tensor:
    """[rows, block, width of a row] of these pages; page 0 stands in where a table ends."""
    pages = F.pad(pages, (0, block_pages - pages.shape[1]))
    return cache.index_select(0, pages.flatten()).view(len(pages), -1, cache.shape[-1])


class _State(NamedTuple):
    """The running softmax of every query: its largest score, the sum of exponentials, the weighted sum."""

    largest: Tensor  # [rows, m, 1]
    total: Tensor  # [rows, m, 1]
    output: Tensor  # [rows, m, latent]

    @staticmethod
    def empty(rows: int, m: int, latent: int) -> "_State":
        largest = torch.full((rows, m, 1), float("-inf"))
        return _State(largest, torch.zeros(rows, m, 1), torch.zeros(rows, m, latent))

    def rows(self, index: Tensor) -> "_State":
        return _State(*(part[index] for part in self))

    def tail(self, start: int) -> "_State":
        return _State(*(part[:, start:] for part in self)) if start else self

    def put(self, index: Tensor, other: "_State") -> None:
        for mine, theirs in zip(self, other, strict=True):
            mine[index] = theirs

    def fold(self, queries: Tensor, keys: Tensor, visible: Tensor) -> None:
        """Take in one block, in place. queries: [rows, m, d]; keys: [rows, block, d]; visible: [rows, m]."""
        scores = torch.bmm(queries, keys.mT).float()  # [rows, m, block]
        if int(visible.min()) < keys.shape[1]:
            scores.masked_fill_(torch.arange(keys.shape[1]) >= visible[..., None], float("-inf"))
        largest = torch.maximum(self.largest, scores.amax(-1, keepdim=True))
        weights = scores.sub_(largest).exp_()
        fade = torch.exp(self.largest - largest)  # 0 at the first block, whose largest was -inf
        self.total.mul_(fade).add_(weights.sum(-1, keepdim=True))
        weights, latents = weights.to(keys.dtype), keys[..., : self.output.shape[-1]]
        block = torch.bmm(weights, latents)  # [rows, m, latent]
        if not bool(block.isfinite().all()):
            # Rows beyond a request's end may hold anything, another's too, and 0 * nan is nan.
            beyond = torch.arange(keys.shape[1]) >= visible[:, -1:]  # [rows, block]
            block = torch.bmm(weights, latents.masked_fill(beyond[..., None], 0.0))
        self.output.mul_(fade).add_(block)
        self.largest.copy_(largest)
