"""Logits become tokens, all rows of a step at once.

The order of effects on a row's logits:

1. ``logit_bias`` is added; tokens that would end the request are barred until ``min_tokens``.
2. ``repetition_penalty`` p over every token of prompt and answer: positive logits / p, others * p
   (Keskar et al. 2019, CTRL, section 4.1).
3. ``frequency_penalty`` x count and ``presence_penalty`` over the answer's tokens only (OpenAI's definition).
4. temperature 0 takes the best token; else logits / temperature, softmax, then ``top_k``, ``top_p`` on what
   is left, ``min_p`` relative to the best token, and one draw.

Reported logprobs are of the model's own distribution: log-softmax of the logits before all of that.

Every draw uses one number that depends on (seed, index of the generated token) alone, and every reduction
below works along a row without looking at the others: a seeded request gets the same tokens alone, in any
batch and after a preemption.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from fullbore.engine.messages import Sampling
from fullbore.engine.step import Sampled
from fullbore.ops.greedy import NOT_FINITE as GREEDY_NOT_FINITE

Ids = npt.NDArray[np.int64]
Greedy = Callable[[Tensor], Tensor]  # logits [rows, vocab] -> [rows]: the ``greedy`` operator

NOT_FINITE = "logits not finite"
MAX_TOP_LOGPROBS = 20
# top_k, top_p and min_p keep the best few tokens: looking at this many avoids sorting the vocabulary.
_DEPTH = 1024


@dataclass(frozen=True, slots=True)
class SampleRow:
    """What the sampler must know of one row. ``seed`` is never None: the engine chose one at submit."""

    sampling: Sampling
    seed: int
    prompt: Ids
    generated: Ids


def sample(
    logits: Tensor, rows: Sequence[SampleRow], eos_token_ids: Sequence[int], greedy: Greedy
) -> list[Sampled]:
    """One token for each row of ``logits`` [rows, vocab] in any float type. ``greedy``: the bound operator.

    A row with a value that is not finite gets an error instead of a token; the others are not affected.
    """
    if not rows:
        return []
    best: list[int] = greedy(logits).tolist()
    results = [
        Sampled(-1, None, (), NOT_FINITE) if token == GREEDY_NOT_FINITE else Sampled(token, None, ())
        for token in best
    ]
    at = [index for index, row in enumerate(rows) if not results[index].error and not _is_plain(row)]
    if at:
        wishes = [rows[index] for index in at]
        wished = _sample_as_wished(
            (logits if len(at) == len(rows) else logits[at]).float(), wishes, eos_token_ids
        )
        for index, result in zip(at, wished, strict=True):
            results[index] = result
    return results


def _is_plain(row: SampleRow) -> bool:
    """Whether the best token of the model's own logits is all that the row asks for."""
    wish = row.sampling
    return (
        wish.temperature <= 0
        and wish.logprobs < 0
        and wish.repetition_penalty == 1.0
        and not (wish.logit_bias or wish.presence_penalty or wish.frequency_penalty)
        and len(row.generated) >= wish.min_tokens
    )


def _sample_as_wished(
    logits: Tensor, rows: Sequence[SampleRow], eos_token_ids: Sequence[int]
) -> list[Sampled]:
    """As ``sample``, for finite logits in float32 and any wishes."""
    adjusted = _adjust(logits, rows, eos_token_ids)
    tokens = adjusted.argmax(dim=1)  # [rows]
    drawn = [index for index, row in enumerate(rows) if row.sampling.temperature > 0]
    if drawn:
        at = torch.tensor(drawn, device=logits.device)
        tokens[at] = _draw(adjusted[at], [rows[index] for index in drawn])
    results = [Sampled(token, None, ()) for token in tokens.tolist()]
    for index, result in _with_logprobs(logits, rows, tokens).items():
        results[index] = result
    return results


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


class _Edits:
    """Sparse edits of [rows, vocab]: each adds a run of (row, ids, values); a (row, id) occurs once."""

    def __init__(self) -> None:
        self._rows: list[int] = []
        self._ids: list[Ids] = []
        self._values: list[npt.NDArray[np.float32]] = []

    def add(self, row: int, ids: Ids, values: npt.NDArray[np.float32] | float) -> None:
        self._rows.append(row)
        self._ids.append(ids)
        self._values.append(np.broadcast_to(np.asarray(values, dtype=np.float32), ids.shape))

    def tensors(self, device: torch.device) -> tuple[Tensor, Tensor, Tensor] | None:
        """(rows, ids, values), each [edits]; None when there are none."""
        if not self._rows:
            return None
        rows = np.repeat(np.array(self._rows, dtype=np.int64), [len(ids) for ids in self._ids])
        arrays = (rows, np.concatenate(self._ids), np.concatenate(self._values))
        at, token_ids, by = (torch.from_numpy(array).to(device) for array in arrays)
        return at, token_ids, by


def _adjust(logits: Tensor, rows: Sequence[SampleRow], eos_token_ids: Sequence[int]) -> Tensor:
    """Biases, bars and penalties; ``logits`` itself when no row asks for any."""
    biases, bars, repetitions, repeats = _Edits(), _Edits(), _Edits(), _Edits()
    for index, row in enumerate(rows):
        wish = row.sampling
        if wish.logit_bias:
            biased = np.fromiter(wish.logit_bias.keys(), np.int64, len(wish.logit_bias))
            biases.add(index, biased, np.fromiter(wish.logit_bias.values(), np.float32, len(biased)))
        if len(row.generated) < wish.min_tokens:
            ends = {*wish.stop_token_ids, *(() if wish.ignore_eos else eos_token_ids)}
            bars.add(index, np.array(sorted(ends), dtype=np.int64), -np.inf)
        if wish.repetition_penalty != 1.0:
            seen = np.unique(np.concatenate([row.prompt, row.generated]))
            repetitions.add(index, seen, wish.repetition_penalty)
        if wish.presence_penalty or wish.frequency_penalty:
            seen, counts = np.unique(row.generated, return_counts=True)
            cost = wish.presence_penalty + wish.frequency_penalty * counts
            repeats.add(index, seen, cost.astype(np.float32))
    edits = [each.tensors(logits.device) for each in (biases, bars, repetitions, repeats)]
    if not any(edits):
        return logits
    logits = logits.clone()
    for kind, edit in enumerate(edits):
        if edit is None:
            continue
        at, ids, values = edit
        old = logits[at, ids]
        if kind == 2:
            new = torch.where(old > 0, old / values, old * values)
        else:
            new = old - values if kind == 3 else old + values
        logits[at, ids] = new
    return logits


def _draw(logits: Tensor, rows: Sequence[SampleRow]) -> Tensor:
    """One token a row, [rows] int64, from ``logits`` [rows, vocab]; every temperature is above 0."""
    device, vocab = logits.device, logits.shape[1]
    wishes = [row.sampling for row in rows]
    temperature = torch.tensor([wish.temperature for wish in wishes], device=device)
    # Subtracting the best first keeps the smallest temperatures from overflowing.
    scaled = (logits - logits.amax(dim=1, keepdim=True)) / temperature.clamp(min=1e-30)[:, None]
    probabilities = torch.softmax(scaled, dim=1)  # [rows, vocab]
    uniform = torch.from_numpy(uniforms([row.seed for row in rows], [len(row.generated) for row in rows])).to(
        device
    )
    cut = [0 < wish.top_k < vocab or wish.top_p < 1.0 or wish.min_p > 0.0 for wish in wishes]
    tokens = torch.empty(len(rows), dtype=torch.int64, device=device)
    whole = torch.tensor([not each for each in cut], device=device)
    if not all(cut):
        tokens[whole] = _invert(probabilities[whole].double().cumsum(dim=1), uniform[whole])
    if any(cut):
        few = [wish for wish, each in zip(wishes, cut, strict=True) if each]
        tokens[~whole] = _draw_best(probabilities[~whole], few, uniform[~whole])
    return tokens


def _draw_best(probabilities: Tensor, wishes: Sequence[Sampling], uniform: Tensor) -> Tensor:
    """As ``_draw``, for rows that cut the distribution; sorts the vocabulary only where it must."""
    vocab = probabilities.shape[1]
    depth = min(vocab, _DEPTH)
    values, ids = _ranked(probabilities, depth)
    kept = kept_tokens(values, wishes, vocab)
    last = values.gather(1, kept[:, None] - 1)[:, 0]
    # The cut lies beyond the depth, or among tokens that tie with some beyond it.
    beyond = torch.tensor([depth < wish.top_k < vocab for wish in wishes], device=values.device)
    unsure = beyond | (last == values[:, -1])
    if depth < vocab and bool(unsure.any()):
        tokens = torch.empty_like(kept)
        deep = [wish for wish, each in zip(wishes, unsure.tolist(), strict=True) if each]
        all_values, all_ids = _ranked(probabilities[unsure], vocab)
        tokens[unsure] = _choose(all_values, all_ids, kept_tokens(all_values, deep, vocab), uniform[unsure])
        sure = ~unsure
        tokens[sure] = _choose(values[sure], ids[sure], kept[sure], uniform[sure])
        return tokens
    return _choose(values, ids, kept, uniform)


def _ranked(probabilities: Tensor, depth: int) -> tuple[Tensor, Tensor]:
    """The ``depth`` likeliest tokens of each row, (values, ids); ties in the order of ids."""
    if depth == probabilities.shape[1]:
        values, ids = torch.sort(probabilities, dim=1, descending=True, stable=True)
        return values, ids
    ids = torch.topk(probabilities, depth, dim=1, sorted=False).indices.sort(dim=1).values
    values, order = torch.sort(probabilities.gather(1, ids), dim=1, descending=True, stable=True)
    return values, ids.gather(1, order)


def kept_tokens(values: Tensor, wishes: Sequence[Sampling], vocab: int) -> Tensor:
    """How many of ``values`` [rows, depth], probabilities in falling order, each row keeps: [rows], >= 1.

    top_k: the k best. top_p: the fewest of those whose mass reaches top_p of theirs. min_p: of those,
    the ones at least min_p times as likely as the best.
    """
    device, depth = values.device, values.shape[1]
    exact = values.double()
    k = torch.tensor([wish.top_k if 0 < wish.top_k < vocab else vocab for wish in wishes], device=device)
    top_p = torch.tensor([wish.top_p for wish in wishes], device=device, dtype=torch.float64)
    min_p = torch.tensor([wish.min_p for wish in wishes], device=device, dtype=torch.float64)
    mass = exact.cumsum(dim=1)
    within = k.clamp(max=depth)
    of_top_k = mass.gather(1, within[:, None] - 1)[:, 0]
    wanted = top_p * torch.where(k < vocab, of_top_k, 1.0)
    # A token is kept while the mass before it is short of what is wanted; at 1.0 rounding must cut nothing.
    before = torch.nn.functional.pad(mass[:, :-1], (1, 0))
    by_mass = torch.where(top_p < 1.0, (before < wanted[:, None]).sum(dim=1), depth)
    by_best = (exact >= min_p[:, None] * exact[:, :1]).sum(dim=1)
    return torch.minimum(torch.minimum(within, by_mass), by_best)


def _choose(values: Tensor, ids: Tensor, kept: Tensor, uniform: Tensor) -> Tensor:
    """The token that ``uniform`` [rows] falls on among the first ``kept`` of each row."""
    mass = values.double().cumsum(dim=1)
    total = mass.gather(1, kept[:, None] - 1)
    return ids.gather(1, _invert(torch.minimum(mass, total), uniform)[:, None])[:, 0]


def _invert(mass: Tensor, uniform: Tensor) -> Tensor:
    """The first index at which the running ``mass`` [rows, n] float64 exceeds uniform x total: [rows]."""
    total = mass[:, -1:]
    target = torch.minimum(uniform[:, None] * total, torch.nextafter(total, torch.zeros_like(total)))
    return torch.searchsorted(mass, target, right=True)[:, 0]


def _with_logprobs(logits: Tensor, rows: Sequence[SampleRow], tokens: Tensor) -> dict[int, Sampled]:
    """The results, by index, of the rows that ask for logprobs."""
    asked = [index for index, row in enumerate(rows) if row.sampling.logprobs >= 0]
    if not asked:
        return {}
    at = torch.tensor(asked, device=logits.device)
    logprobs = torch.log_softmax(logits[at], dim=1)  # [asked, vocab]
    chosen = logprobs.gather(1, tokens[at][:, None])[:, 0].tolist()
    # Always the most that may be asked for, so that ties do not depend on the neighbours' wishes.
    best, ids = torch.topk(logprobs, min(MAX_TOP_LOGPROBS, logits.shape[1]), dim=1)
    found = zip(asked, tokens[at].tolist(), chosen, best.tolist(), ids.tolist(), strict=True)
    return {
        index: Sampled(
            token, logprob, tuple(zip(which, values, strict=True))[: rows[index].sampling.logprobs]
        )
        for index, token, logprob, values, which in found
    }
