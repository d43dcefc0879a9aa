"""Steps become tensors, tensors become sampled tokens.

The runner keeps the tokens of every request from ``Started`` until ``Step.ended`` names it, so that a step
need not carry them. Computing a row again writes the same latents to the same slots and puts its token in
the same place: a step that failed part of the way can be run again, whole or in pieces.
"""

from collections.abc import Iterable, Sequence

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from fullbore.engine.messages import Sampling
from fullbore.engine.sampler import SampleRow, sample
from fullbore.engine.step import Row, Sampled, Started, Step
from fullbore.errors import FullboreError
from fullbore.model.batch import Batch
from fullbore.model.deepseek import DeepseekV3


class _Sequence:
    """The tokens of one request: the prompt, then what was sampled."""

    def __init__(self, started: Started) -> None:
        self.sampling: Sampling = started.sampling
        self.seed = started.sampling.seed or 0
        self.prompt_length = len(started.prompt)
        self.length = self.prompt_length
        self.tokens: npt.NDArray[np.int64] = np.empty(self.length + 64, dtype=np.int64)
        self.tokens[: self.length] = started.prompt
        self._pages: tuple[int, ...] = ()
        self._page_array: npt.NDArray[np.int32] = np.empty(0, dtype=np.int32)

    def put(self, position: int, token: int) -> None:
        """``token`` becomes the last one, at ``position``."""
        if position == len(self.tokens):
            self.tokens = np.concatenate([self.tokens, np.empty_like(self.tokens)])
        self.tokens[position] = token
        self.length = position + 1

    def page_array(self, pages: tuple[int, ...]) -> npt.NDArray[np.int32]:
        """``pages`` as an array; made anew only when they changed, which is once in a page's tokens."""
        if pages != self._pages:
            self._pages, self._page_array = pages, np.array(pages, dtype=np.int32)
        return self._page_array


class Handle:
    """A launched step. The CPU has finished it by then; a device may still be at work."""

    def __init__(self, results: dict[int, Sampled]) -> None:
        self._results = results

    def sampled(self) -> dict[int, Sampled]:
        """By request: the new token of every row that samples, or what went wrong with that row alone."""
        return self._results


class Runner:
    """Runs steps of ``model`` over a cache of ``cache_pages`` pages of ``page_size`` tokens."""

    def __init__(
        self, model: DeepseekV3, cache_pages: int, page_size: int, eos_token_ids: Sequence[int]
    ) -> None:
        self._model = model
        self._page_size = page_size
        self._eos_token_ids = tuple(eos_token_ids)
        self._cache: tuple[Tensor, ...] = model.new_cache(cache_pages, page_size)
        self._sequences: dict[int, _Sequence] = {}

    def launch(self, step: Step) -> Handle:
        """Run ``step``.

        ``started`` is taken in before anything can fail; when this raises, rows may have been computed but
        no token was kept and nothing that ``ended`` names was forgotten.
        """
        for started in step.started:
            self._sequences[started.request] = _Sequence(started)
        results: dict[int, Sampled] = {}
        rows: list[Row] = []
        for row in step.rows:
            sequence = self._sequences.get(row.request)
            if sequence is None or row.first + row.count > sequence.length:
                # Only after an error of this request in a step that this one was planned upon.
                results[row.request] = Sampled(-1, None, (), "its tokens are not known to the runner")
            else:
                rows.append(row)
        if rows:
            with torch.inference_mode():
                results |= self._compute(rows)
        for request in step.ended:
            self._sequences.pop(request, None)
        return Handle(results)

    def _compute(self, rows: Sequence[Row]) -> dict[int, Sampled]:
        logits = self._model.forward(self._batch(rows), self._cache)  # [sampling rows, vocab]
        sampling = [row for row in rows if row.samples]
        if logits.shape[0] != len(sampling):
            raise FullboreError(f"the model gave {logits.shape[0]} rows of logits for {len(sampling)} tokens")
        wishes = [self._sample_row(row) for row in sampling]
        sampled = sample(logits, wishes, self._eos_token_ids, self._model.greedy)
        for row, result in zip(sampling, sampled, strict=True):
            if not result.error:
                self._sequences[row.request].put(row.first + row.count, result.token)
        return {row.request: result for row, result in zip(sampling, sampled, strict=True)}

    def _sample_row(self, row: Row) -> SampleRow:
        sequence = self._sequences[row.request]
        prompt = sequence.prompt_length
        return SampleRow(
            sequence.sampling,
            sequence.seed,
            sequence.tokens[:prompt],
            sequence.tokens[prompt : row.first + row.count],
        )

    def _batch(self, rows: Sequence[Row]) -> Batch:
        """The tensors of ``rows``, made in bulk: Python works per row here, never per token."""
        size = self._page_size
        sequences = [self._sequences[row.request] for row in rows]
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
        slots = page_table[of_row, positions // size].astype(np.int64) * size + positions % size
        tokens = np.concatenate(
            [
                sequence.tokens[row.first : row.first + row.count]
                for row, sequence in zip(rows, sequences, strict=True)
            ]
        )
        decodes = next((index for index, row in enumerate(rows) if row.count > 1), len(rows))
        samples = np.array([row.samples for row in rows])
        place = self._model.device.place
        return Batch(
            tokens=torch.from_numpy(tokens).to(place),
            positions=torch.from_numpy(positions).to(place),
            slots=torch.from_numpy(slots).to(place),
            decode_rows=decodes,
            page_table=torch.from_numpy(page_table).to(place),
            contexts=torch.from_numpy((first + count).astype(np.int32)).to(place),
            prefills=_prefills(start[decodes:], rows[decodes:]),
            logits_at=torch.from_numpy((start + count - 1)[samples]).to(place),
        )


def _prefills(starts: Iterable[np.int64], rows: Iterable[Row]) -> tuple[tuple[int, int, int], ...]:
    """(index of the first token in the batch, tokens, first position) of each row after the decodes."""
    return tuple((int(start), row.count, row.first) for start, row in zip(starts, rows, strict=True))
