"""Steps become tensors, tensors become sampled tokens.

The runner keeps the tokens of every request from ``Started`` until ``Step.ended`` names it, so that a step
need not carry them. Computing a row again writes the same latents to the same slots and puts its token in
the same place: a step that failed part of the way can be run again, whole or in pieces.

``launch`` hands work to the device's stream and returns. What it sampled stays there: the next launch takes
the tokens that the host does not know yet from the one before. Of a request that is penalised for what it
said the host must know them: its launch waits for the one before, when its own network is on its way. Where
sampling looks at values itself, it is put off until the next launch, or until its tokens are asked for.
"""

from collections import deque
from collections.abc import Callable, Sequence
from functools import partial

import numpy as np
import torch
from torch import Tensor

from fullbore.engine.draws import Draws, draw
from fullbore.engine.graphs import DecodeGraphs
from fullbore.engine.inputs import batch_of, merged, padded, step_arrays
from fullbore.engine.messages import Sampling
from fullbore.engine.sampler import Chosen, Draw, Plan, SampleRow, choose, is_plain, plan, told, wants_values
from fullbore.engine.sequence import Sequence as Tokens
from fullbore.engine.step import Row, Sampled, Step
from fullbore.engine.stream import PAST, Event, Immediate, Stream
from fullbore.errors import FullboreError
from fullbore.model.deepseek import DeepseekV3
from fullbore.model.parts import Call

_UNKNOWN = Sampled(-1, None, (), "its tokens are not known to the runner")
_NONE = np.empty(0, dtype=np.int64)
_NO_WISHES = SampleRow(Sampling(temperature=0.0), 0, _NONE, _NONE)


class Handle:
    """A launched step; the device may still be at work on it.

    rows: those that sample, with the tokens of their requests. logits, best, tokens: of these rows, on the
    device, for work that is run later.
    """

    def __init__(self, results: dict[int, Sampled]) -> None:
        self.rows: list[tuple[Row, Tokens]] = []
        self.logits: Tensor | None = None
        self.best: Tensor | None = None
        self.tokens: Tensor | None = None
        self.chosen: Chosen | None = None  # of the host, once ``event`` has come
        self.plan: Plan | None = None
        self.event: Event = PAST
        self.rest: Callable[[], None] | None = None  # of the launch, put off
        self._results = results
        self._settled = False
        self._error: Exception | None = None

    def sampled(self) -> dict[int, Sampled]:
        """By request: the new token of every row that samples, or what went wrong with that row alone."""
        self.settle()
        if self._error is not None:
            raise self._error
        return self._results

    def settle(self) -> None:
        """Wait, and let the requests know their tokens. Raises nothing: ``sampled`` does."""
        self.complete()
        if self._settled:
            return
        self._settled = True
        try:
            self.event.wait()
            results = told(self.chosen, self.plan) if self.chosen is not None else []
        except Exception as error:  # noqa: BLE001 - whatever it is, who asks for the results must hear of it
            self._fail(error)
            return
        for (row, tokens), result in zip(self.rows, results, strict=True):
            position = row.first + row.count
            if result.error:
                tokens.lose(position, self)
            elif not tokens.take(position, self, result.token):
                result = _UNKNOWN  # the one before it failed, which was found after this launch
            self._results[row.request] = result

    def complete(self) -> None:
        """Launch what was put off. Raises nothing either."""
        rest, self.rest = self.rest, None
        if rest is None:
            return
        try:
            with torch.inference_mode():
                rest()
        except Exception as error:  # noqa: BLE001 - as in ``settle``
            self._settled = True
            self._fail(error)

    def _fail(self, error: Exception) -> None:
        self._error = error
        for row, tokens in self.rows:
            tokens.lose(row.first + row.count, self)


class Runner:
    """Runs steps of ``model`` over a cache of ``cache_pages`` pages of ``page_size`` tokens, on ``stream``.

    ``graph_rows``: for how many rows ``capture`` makes graphs of decodes, by rows of up to ``table_width``
    pages.
    """

    def __init__(
        self,
        model: DeepseekV3,
        cache_pages: int,
        page_size: int,
        eos_token_ids: Sequence[int],
        stream: Stream | None = None,
        graph_rows: Sequence[int] = (),
        table_width: int = 0,
    ) -> None:
        self._model = model
        self._page_size = page_size
        self._eos_token_ids = tuple(eos_token_ids)
        self._stream = stream or Immediate()
        self._draw: Draw = draw if model.sample is None else partial(_draw_by, model.sample)
        spare = 1 if graph_rows else 0  # a page that the scheduler does not know of
        self._cache: tuple[Tensor, ...] = model.new_cache(cache_pages + spare, page_size)
        self._graphs: DecodeGraphs | None = None
        if graph_rows:
            width = table_width or cache_pages
            self._graphs = DecodeGraphs(model, self._cache, self._stream, graph_rows, width, cache_pages)
        self._sequences: dict[int, Tokens] = {}
        self._launched: deque[Handle] = deque()  # the last, and those before it that may not be settled

    def capture(self) -> None:
        """Make the graphs that were asked for; without them every step is launched kernel by kernel."""
        if self._graphs is not None:
            self._graphs.capture()

    def launch(self, step: Step) -> Handle:
        """Start ``step``.

        ``started`` is taken in before anything can fail; when this raises, rows may have been computed but
        no token was kept and nothing that ``ended`` names was forgotten.
        """
        for started in step.started:
            self._sequences[started.request] = Tokens(started)
        if step.tokens and self._launched:
            self._launched[-1].complete()
        while len(self._launched) > 1:  # tokens are taken from the last launch alone
            self._launched.popleft().settle()
        results: dict[int, Sampled] = {}
        rows: list[Row] = []
        for row in step.rows:
            tokens = self._sequences.get(row.request)
            if tokens is None or row.first + row.count > tokens.length:
                # Only after an error of this request in a step that this one was planned upon.
                results[row.request] = _UNKNOWN
            else:
                rows.append(row)
        handle = Handle(results)
        if rows:
            with torch.inference_mode():
                self._start(rows, handle)
        for request in step.ended:
            self._sequences.pop(request, None)
        return handle

    def _start(self, rows: Sequence[Row], handle: Handle) -> None:
        before = self._launched[-1] if self._launched else None
        sequences = [self._sequences[row.request] for row in rows]
        handle.rows = [pair for pair in zip(rows, sequences, strict=True) if pair[0].samples]
        self._start_network(rows, sequences, handle, before)
        if handle.rows:
            if before is not None and any(
                tokens.awaited and wants_values(tokens.sampling) for _, tokens in handle.rows
            ):
                before.settle()
            self._start_sampling(handle)
            for index, (row, tokens) in enumerate(handle.rows):
                position = row.first + row.count
                if tokens.length >= position:
                    tokens.expect(position, handle, index)
            self._launched.append(handle)
        else:
            handle.event = self._stream.record()

    def _start_network(
        self, rows: Sequence[Row], sequences: Sequence[Tokens], handle: Handle, before: Handle | None
    ) -> None:
        arrays = step_arrays(rows, sequences, self._page_size)
        graphs, size = self._graphs, 0
        if graphs is not None and all(row.count == 1 and row.samples for row in rows):
            size = graphs.rows_for(len(rows))
            if size:
                arrays = padded(arrays, size, graphs.spare_page, self._page_size)

        def network() -> None:
            placed = self._stream.to_device(arrays)
            tokens = merged(placed["tokens"], placed.get("sources"), before.tokens if before else None)
            if graphs is not None and size:
                handle.logits, handle.best = graphs.run(len(rows), tokens, placed)
                return
            handle.logits = logits = self._model.forward(batch_of(rows, tokens, placed), self._cache)
            if logits.shape[0] != len(handle.rows):
                raise FullboreError(
                    f"the model gave {logits.shape[0]} rows of logits for {len(handle.rows)} tokens"
                )

        self._stream.run(network)

    def _start_sampling(self, handle: Handle) -> None:
        asked: Plan | None = None
        if not all(_is_plain(row, tokens) for row, tokens in handle.rows):
            wishes = [_sample_row(row, tokens) for row, tokens in handle.rows]
            asked = plan(wishes, self._eos_token_ids, self._model.config.vocab_size)
        handle.plan = asked

        def sampling() -> None:
            logits = handle.logits
            if logits is None:
                raise FullboreError("sampling was run before its network: a bug of the stream")
            best = self._model.greedy(logits) if handle.best is None else handle.best
            placed = self._stream.to_device(asked.arrays) if asked else {}
            chosen = choose(logits, best, asked, placed, self._draw)
            handle.tokens, handle.logits = chosen.tokens, None
            host = self._stream.to_host
            rest = (None if part is None else host(part) for part in chosen[1:])
            handle.chosen = Chosen(host(chosen.tokens), *rest)

        def start() -> None:
            self._stream.run(sampling)
            handle.event = self._stream.record()

        if asked is not None and asked.looks and self._draw is draw:
            handle.rest = start  # it waits for its network, and meanwhile the host has other things to do
        else:
            start()


def _draw_by(sample: Call, logits: Tensor, wishes: Draws) -> Tensor:
    """By the ``sample`` operator, which looks at nothing."""
    return sample(logits, *wishes[:5])  # type: ignore[no-any-return]


def _is_plain(row: Row, tokens: Tokens) -> bool:
    return is_plain(tokens.sampling, row.first + row.count - tokens.prompt_length)


def _sample_row(row: Row, tokens: Tokens) -> SampleRow:
    known = row.first + row.count
    if tokens.length < known:  # lost after its network was launched: what is drawn for it is dropped
        return _NO_WISHES
    prompt = tokens.prompt_length
    return SampleRow(tokens.sampling, tokens.seed, tokens.tokens[:prompt], tokens.tokens[prompt:known])
