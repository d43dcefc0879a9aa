"""The rows of a step as arrays, made in bulk: Python works per row here, never per token."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
from torch import Tensor

from fullbore.engine.sequence import Sequence as Tokens
from fullbore.engine.step import Row
from fullbore.model.batch import Batch

Arrays = dict[str, npt.NDArray[Any]]


def step_arrays(rows: Sequence[Row], sequences: Sequence[Tokens], page_size: int) -> Arrays:
    """The tensors of ``Batch`` by name.

    sources [T] int64 beside them, where a token's value is on the device alone: the row of the launch before
    that samples it, -1 for every other.
    """
    first = np.array([row.first for row in rows], dtype=np.int64)
    count = np.array([row.count for row in rows], dtype=np.int64)
    start = np.cumsum(count) - count  # [rows], where each row's tokens begin
    page_arrays = [sequence.page_array(row.pages) for row, sequence in zip(rows, sequences, strict=True)]
    # [rows, most pages], padded with 0
    page_table = np.zeros((len(rows), max(len(pages) for pages in page_arrays)), dtype=np.int32)
    for index, pages in enumerate(page_arrays):
        page_table[index, : len(pages)] = pages
    of_row = np.repeat(np.arange(len(rows)), count)  # [tokens]
    positions = np.arange(len(of_row)) - (start - first)[of_row]
    slots = page_table[of_row, positions // page_size].astype(np.int64) * page_size + positions % page_size
    tokens = np.concatenate(
        [
            sequence.tokens[row.first : row.first + row.count]
            for row, sequence in zip(rows, sequences, strict=True)
        ]
    )
    samples = np.array([row.samples for row in rows])
    arrays: Arrays = {
        "tokens": tokens,
        "positions": positions,
        "slots": slots,
        "page_table": page_table,
        "contexts": (first + count).astype(np.int32),
        "logits_at": (start + count - 1)[samples],
    }
    if any(sequence.awaited for sequence in sequences):
        last = [row.first + row.count - 1 for row in rows]
        sources = [
            sequence.awaited.get(at, (None, -1))[1] for at, sequence in zip(last, sequences, strict=True)
        ]
        arrays["sources"] = np.full(len(tokens), -1, dtype=np.int64)
        arrays["sources"][start + count - 1] = sources
    return arrays


def padded(arrays: Arrays, rows: int, spare_page: int, page_size: int) -> Arrays:
    """Arrays of decodes that all sample, with rows added that read and write one token of the spare page."""
    lack = rows - len(arrays["tokens"])
    fill = {"slots": spare_page * page_size, "contexts": 1, "page_table": spare_page, "sources": -1}
    return {
        name: np.concatenate([array, np.full((lack, *array.shape[1:]), fill.get(name, 0), array.dtype)])
        for name, array in arrays.items()
        if name != "logits_at"
    }


def batch_of(rows: Sequence[Row], tokens: Tensor, placed: Mapping[str, Tensor]) -> Batch:
    """``placed``: the arrays of ``rows`` on the device; ``tokens``: every one with its value."""
    decodes = next((index for index, row in enumerate(rows) if row.count > 1), len(rows))
    prefills, start = [], decodes
    for row in rows[decodes:]:
        prefills.append((start, row.count, row.first))
        start += row.count
    return Batch(
        tokens=tokens,
        positions=placed["positions"],
        slots=placed["slots"],
        decode_rows=decodes,
        page_table=placed["page_table"],
        contexts=placed["contexts"],
        prefills=tuple(prefills),
        logits_at=placed["logits_at"],
    )


def merged(tokens: Tensor, sources: Tensor | None, sampled: Tensor | None) -> Tensor:
    """``tokens`` [T] with those of ``sampled`` [rows] where ``sources`` [T] names a row.

    A row that failed has a negative token: it reads as token 0, and what comes of it is dropped.
    """
    if sources is None or sampled is None:
        return tokens
    return sampled.clamp_min(0)[sources.clamp_min(0)].where(sources >= 0, tokens)
