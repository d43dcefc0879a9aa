"""Steps of decodes as graphs of a device: one launch instead of a thousand.

A graph is made for each of a few numbers of rows and computes on the same tensors every time; a step takes
the next larger one and fills the rest with rows that read and write a page which no request has.

One graph serves every context. The page table is as wide as the longest request; a step brings the columns
that it uses, and kernels go by what ``contexts`` says. Only the number of programs that share a context is
fixed by the width, and beyond a few requests their own number bounds it first (``mla_decode``).
"""

from collections.abc import Mapping, Sequence
from functools import partial

import torch
from torch import Tensor

from fullbore.engine.options import EngineOptions
from fullbore.engine.stream import Stream, Work
from fullbore.model.batch import Batch
from fullbore.model.deepseek import DeepseekV3

_FEW = (1, 2, 4)
_APART = 8
_MOST = 256  # rows of a graph unless told otherwise: with more, launching kernel by kernel is soon hidden


def buckets(most: int) -> tuple[int, ...]:
    """Numbers of rows for which graphs are made, rising: 1, 2, 4, every 8th, and ``most`` (at least 1)."""
    return tuple(sorted({*(few for few in _FEW if few < most), *range(_APART, most, _APART), most}))


def largest(options: EngineOptions) -> int:
    """Rows of the largest graph."""
    return min(options.max_num_seqs, options.cuda_graph_max_bs or _MOST)


class DecodeGraphs:
    """Graphs of ``model`` over ``cache``, for rows of up to ``width`` pages; ``spare_page`` is nobody's."""

    def __init__(
        self,
        model: DeepseekV3,
        cache: tuple[Tensor, ...],
        stream: Stream,
        sizes: Sequence[int],
        width: int,
        spare_page: int,
    ) -> None:
        most, place, spare_slot = max(sizes), model.device.place, spare_page * cache[0].shape[1]
        self.spare_page = spare_page
        self._model, self._cache, self._stream = model, cache, stream
        self._sizes = sorted(sizes)
        self._graphs: dict[int, Work] = {}
        self._batch = Batch(
            tokens=torch.zeros(most, dtype=torch.int64, device=place),
            positions=torch.zeros(most, dtype=torch.int64, device=place),
            slots=torch.full((most,), spare_slot, dtype=torch.int64, device=place),
            decode_rows=most,
            page_table=torch.full((most, width), spare_page, dtype=torch.int32, device=place),
            contexts=torch.ones(most, dtype=torch.int32, device=place),
            prefills=(),
            logits_at=torch.arange(most, device=place),
        )

    @torch.inference_mode()
    def capture(self) -> None:
        """Make every graph; the largest first, whose memory the others share."""
        logits = self._model.forward(self._batch, self._cache)
        self._logits, self._best = torch.empty_like(logits), self._model.greedy(logits)
        del logits
        for rows in reversed(self._sizes):
            self._graphs[rows] = self._stream.capture(partial(self._decode, rows))

    def rows_for(self, rows: int) -> int:
        """The rows of the graph that computes so many; 0 where there is none."""
        return next((size for size in self._sizes if size >= rows and size in self._graphs), 0)

    def run(self, rows: int, tokens: Tensor, placed: Mapping[str, Tensor]) -> tuple[Tensor, Tensor]:
        """tokens: [size], of a size that has a graph; placed: ``positions``, ``slots``, ``contexts`` [size]
        and ``page_table`` [size, columns] -> logits [rows, vocab], good until the next run, and best [rows].
        """
        size, batch = len(tokens), self._batch
        batch.tokens[:size].copy_(tokens)
        for name in ("positions", "slots", "contexts"):
            getattr(batch, name)[:size].copy_(placed[name])
        table = placed["page_table"]
        batch.page_table[:size, : table.shape[1]].copy_(table)
        self._graphs[size]()
        return self._logits[:rows], self._best[:rows].clone()

    def _decode(self, rows: int) -> None:
        whole = self._batch
        part = Batch(
            whole.tokens[:rows],
            whole.positions[:rows],
            whole.slots[:rows],
            rows,
            whole.page_table[:rows],
            whole.contexts[:rows],
            (),
            whole.logits_at[:rows],
        )
        logits = self._model.forward(part, self._cache)
        self._logits[:rows].copy_(logits)
        self._best[:rows].copy_(self._model.greedy(logits))
