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
works along a row without looking at the others: a seeded request gets the same tokens alone, in any
batch and after a preemption.

Three parts, so that a device need not wait for the host nor the host for a device: ``plan`` says in arrays
what rows ask for, ``choose`` computes where the logits are, ``told`` reads what came back.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from fullbore.engine.draws import Draws, draw, uniforms
from fullbore.engine.messages import Sampling
from fullbore.engine.step import Sampled
from fullbore.ops.greedy import NOT_FINITE as GREEDY_NOT_FINITE

Ids = npt.NDArray[np.int64]
Arrays = dict[str, npt.NDArray[np.generic]]
Draw = Callable[[Tensor, Draws], Tensor]
Greedy = Callable[[Tensor], Tensor]  # logits [rows, vocab] -> [rows]: the ``greedy`` operator

NOT_FINITE = "logits not finite"
MAX_TOP_LOGPROBS = 20
_EDITS = ("bias", "bar", "repetition", "repeat")  # in their order


@dataclass(frozen=True, slots=True)
class SampleRow:
    """What the sampler must know of one row. ``seed`` is never None: the engine chose one at submit.

    Only penalties look at the values of ``generated``; else its length is enough.
    """

    sampling: Sampling
    seed: int
    prompt: Ids
    generated: Ids


@dataclass(frozen=True, slots=True)
class Plan:
    """What the rows of a step ask for beyond their best token, ``arrays`` being for the device.

    wished [W]: which rows ask for anything. Of those: drawn [D]: which draw, with an array for each field of
    ``Draws``; asked [A]: which want logprobs. NAME.at, NAME.ids, NAME.by for each of ``edits``: (row, token,
    value), a (row, token) occurs once.
    """

    rows: int
    arrays: Arrays
    edits: tuple[str, ...]
    logprobs: tuple[tuple[int, int], ...]  # of the rows asked: (which of all rows, how many)

    @property
    def looks(self) -> bool:
        """Whether ``draws.draw`` looks at values of the device, and so waits for it."""
        return len(self.arrays.get("cut", ())) > 0


class Chosen(NamedTuple):
    """What ``choose`` found, on the device or copied from there. tokens: [rows] int64, negative where the
    logits are not finite; logprob: [A] float32 of them; best, ids: [A, MAX_TOP_LOGPROBS]."""

    tokens: Tensor
    logprob: Tensor | None = None
    best: Tensor | None = None
    ids: Tensor | None = None


def wants_values(wish: Sampling) -> bool:
    """Whether its draws depend on which tokens were generated."""
    return wish.repetition_penalty != 1.0 or bool(wish.presence_penalty or wish.frequency_penalty)


def is_plain(wish: Sampling, generated: int) -> bool:
    """Whether, after so many tokens, it asks for no more than the best token of the model's own logits."""
    return (
        wish.temperature <= 0
        and wish.logprobs < 0
        and wish.repetition_penalty == 1.0
        and not (wish.logit_bias or wish.presence_penalty or wish.frequency_penalty)
        and generated >= wish.min_tokens
    )


def plan(rows: Sequence[SampleRow], eos_token_ids: Sequence[int], vocab: int) -> Plan | None:
    """None where the best token of the model's own logits is all that any row asks for."""
    at = [index for index, row in enumerate(rows) if not is_plain(row.sampling, len(row.generated))]
    if not at:
        return None
    wishes = [rows[index] for index in at]
    edits = _edits(wishes, eos_token_ids)
    asked = [index for index, row in enumerate(wishes) if row.sampling.logprobs >= 0]
    drawn = [index for index, row in enumerate(wishes) if row.sampling.temperature > 0]
    arrays: Arrays = {"wished": _ids(at), "asked": _ids(asked), "drawn": _ids(drawn)}
    if drawn:
        arrays |= _draw_arrays([wishes[index] for index in drawn], vocab)
    for name, edit in edits.items():
        arrays |= {f"{name}.{part}": array for part, array in edit.arrays().items()}
    told = tuple((at[index], wishes[index].sampling.logprobs) for index in asked)
    return Plan(len(rows), arrays, tuple(edits), told)


def choose(
    logits: Tensor, best: Tensor, plan: Plan | None, placed: Mapping[str, Tensor], draw: Draw = draw
) -> Chosen:
    """logits: [rows, vocab] in any float type; best: [rows], the ``greedy`` operator's answer; placed:
    ``plan.arrays`` on their device; draw: how rows draw that do.

    A row with a value that is not finite gets a negative token; the others are not affected.
    """
    if plan is None:
        return Chosen(best)
    wished, drawn, asked = placed["wished"], placed["drawn"], placed["asked"]
    picked = _of(logits, wished).float()
    adjusted = picked.clone() if plan.edits else picked
    for name in plan.edits:
        _edit(adjusted, name, *(placed[f"{name}.{part}"] for part in ("at", "ids", "by")))
    tokens = adjusted.argmax(dim=1)  # [W]
    if len(drawn):
        tokens[drawn] = draw(_of(adjusted, drawn), Draws(*(placed[field] for field in Draws._fields)))
    trusted = _of(best, wished)
    tokens = torch.where(trusted == GREEDY_NOT_FINITE, trusted, tokens)
    every = tokens if len(wished) == plan.rows else best.index_copy(0, wished, tokens)
    if not len(asked):
        return Chosen(every)
    logprobs = torch.log_softmax(_of(picked, asked), dim=1)  # [A, vocab]
    chosen = logprobs.gather(1, _of(tokens, asked).clamp_min(0)[:, None])[:, 0]
    # Always the most that may be asked for, so that ties do not depend on the neighbours' wishes.
    return Chosen(every, chosen, *torch.topk(logprobs, min(MAX_TOP_LOGPROBS, logits.shape[1]), dim=1))


def told(chosen: Chosen, plan: Plan | None) -> list[Sampled]:
    """What each row is told: its token, or an error where its logits were not finite."""
    results = [
        Sampled(token) if token >= 0 else Sampled(-1, None, (), NOT_FINITE)
        for token in chosen.tokens.tolist()
    ]
    if plan is None or chosen.logprob is None or chosen.best is None or chosen.ids is None:
        return results
    found = zip(
        plan.logprobs, chosen.logprob.tolist(), chosen.best.tolist(), chosen.ids.tolist(), strict=True
    )
    for (index, count), logprob, values, ids in found:
        if not results[index].error:
            top = tuple(zip(ids, values, strict=True))[:count]
            results[index] = Sampled(results[index].token, logprob, top)
    return results


def sample(
    logits: Tensor, rows: Sequence[SampleRow], eos_token_ids: Sequence[int], greedy: Greedy
) -> list[Sampled]:
    """All three at once: a token for each row of ``logits`` [rows, vocab], or an error of that row alone."""
    if not rows:
        return []
    wishes = plan(rows, eos_token_ids, logits.shape[1])
    arrays = wishes.arrays if wishes else {}
    placed = {name: torch.from_numpy(array).to(logits.device) for name, array in arrays.items()}
    return told(choose(logits, greedy(logits), wishes, placed), wishes)


def _draw_arrays(rows: Sequence[SampleRow], vocab: int) -> Arrays:
    """The fields of ``Draws``."""
    wishes = [row.sampling for row in rows]
    cut = np.array(
        [0 < wish.top_k < vocab or wish.top_p < 1.0 or wish.min_p > 0.0 for wish in wishes], dtype=bool
    )
    return {
        "temperature": np.array([wish.temperature for wish in wishes], dtype=np.float32),
        "top_k": _ids([wish.top_k if 0 < wish.top_k < vocab else vocab for wish in wishes]),
        "top_p": np.array([wish.top_p for wish in wishes], dtype=np.float64),
        "min_p": np.array([wish.min_p for wish in wishes], dtype=np.float64),
        "uniform": uniforms([row.seed for row in rows], [len(row.generated) for row in rows]),
        "whole": np.flatnonzero(~cut),
        "cut": np.flatnonzero(cut),
    }


class _Edit:
    """Sparse changes of [rows, vocab]: each adds a run of (row, tokens, values)."""

    def __init__(self) -> None:
        self._rows: list[int] = []
        self._ids: list[Ids] = []
        self._values: list[npt.NDArray[np.float32]] = []

    def add(self, row: int, ids: Ids, values: npt.NDArray[np.float32] | float) -> None:
        self._rows.append(row)
        self._ids.append(ids)
        self._values.append(np.broadcast_to(np.asarray(values, dtype=np.float32), ids.shape))

    def arrays(self) -> Arrays:
        """at, ids, by: each [edits]."""
        at = np.repeat(_ids(self._rows), [len(ids) for ids in self._ids])
        return {"at": at, "ids": np.concatenate(self._ids), "by": np.concatenate(self._values)}


def _edits(rows: Sequence[SampleRow], eos_token_ids: Sequence[int]) -> dict[str, _Edit]:
    """Biases, bars and penalties that any row asks for, in their order."""
    found = {name: _Edit() for name in _EDITS}
    for index, row in enumerate(rows):
        wish = row.sampling
        if wish.logit_bias:
            biased = np.fromiter(wish.logit_bias.keys(), np.int64, len(wish.logit_bias))
            found["bias"].add(index, biased, np.fromiter(wish.logit_bias.values(), np.float32, len(biased)))
        if len(row.generated) < wish.min_tokens:
            ends = {*wish.stop_token_ids, *(() if wish.ignore_eos else eos_token_ids)}
            found["bar"].add(index, _ids(sorted(ends)), -np.inf)
        if wish.repetition_penalty != 1.0:
            seen = np.unique(np.concatenate([row.prompt, row.generated]))
            found["repetition"].add(index, seen, wish.repetition_penalty)
        if wish.presence_penalty or wish.frequency_penalty:
            seen, counts = np.unique(row.generated, return_counts=True)
            cost = wish.presence_penalty + wish.frequency_penalty * counts
            found["repeat"].add(index, seen, cost.astype(np.float32))
    return {name: edit for name, edit in found.items() if edit._rows}


def _edit(logits: Tensor, name: str, at: Tensor, ids: Tensor, by: Tensor) -> None:
    """One of the edits, in place."""
    old = logits[at, ids]
    if name == "repetition":
        new = torch.where(old > 0, old / by, old * by)
    else:
        new = old - by if name == "repeat" else old + by
    logits[at, ids] = new


def _ids(values: Sequence[int]) -> Ids:
    return np.array(values, dtype=np.int64)


def _of(tensor: Tensor, rows: Tensor) -> Tensor:
    """The named rows, in order; without a copy where they are all."""
    return tensor if len(rows) == len(tensor) else tensor[rows]
