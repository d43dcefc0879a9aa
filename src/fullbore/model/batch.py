"""The tensors of one step."""

from dataclasses import dataclass

from torch import Tensor


@dataclass(frozen=True)
class Batch:
    """T tokens of D decode rows (one token each, first) and then the prefill chunks, in row order.

    A prefill is (start, count, first): ``count`` tokens from index ``start`` of T, at positions from
    ``first`` on. Rows count the decodes first, then the prefills.
    """

    tokens: Tensor  # [T] int64
    positions: Tensor  # [T] int64
    slots: Tensor  # [T] int64, page * page_size + offset: where each token's latent is written
    decode_rows: int
    page_table: Tensor  # [rows, max_pages] int32, padded with 0
    contexts: Tensor  # [rows] int32, keys visible to the row's last token, itself included
    prefills: tuple[tuple[int, int, int], ...]
    logits_at: Tensor  # [R] int64, indices into T
