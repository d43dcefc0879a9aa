"""How far a model's predictions are from another's on the same text: what converted weights cost."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from fullbore.model.batch import Batch
from fullbore.model.deepseek import DeepseekV3


@dataclass(frozen=True)
class Comparison:
    """Over all tokens of a text but the last of each sequence; probabilities are of the next token.

    agreement: share of tokens with the same most likely next token. divergence: mean KL(reference || other),
    nats. perplexity: exp of the mean negative log likelihood of the text, reference and other. largest:
    difference of any logit.
    """

    tokens: int
    agreement: float
    divergence: float
    perplexity: tuple[float, float]
    largest: float


def predictions(model: DeepseekV3, sequences: Sequence[Sequence[int]]) -> list[Tensor]:
    """For each sequence its logits [tokens, vocab] float32, each token seeing those before it."""
    longest = max(map(len, sequences))
    cache = model.new_cache(1, longest)
    return [model.forward(_whole(sequence), cache).clone() for sequence in sequences]


def _whole(sequence: Sequence[int]) -> Batch:
    """One prompt on one page."""
    count = len(sequence)
    places, pages = torch.arange(count), torch.zeros(1, 1, dtype=torch.int32)
    contexts = torch.tensor([count], dtype=torch.int32)
    return Batch(torch.tensor(sequence), places, places, 0, pages, contexts, ((0, count, 0),), places)


def compare(
    sequences: Sequence[Sequence[int]], reference: Sequence[Tensor], other: Sequence[Tensor]
) -> Comparison:
    """Of two models' ``predictions``."""
    tokens, same, divergence, largest, lost = 0, 0, 0.0, 0.0, [0.0, 0.0]
    for sequence, first, second in zip(sequences, reference, other, strict=True):
        count = len(sequence) - 1
        following = torch.tensor(sequence[1:])[:, None]
        logs = [logits[:count].log_softmax(-1) for logits in (first, second)]
        tokens += count
        same += int((first[:count].argmax(-1) == second[:count].argmax(-1)).sum())
        divergence += float((logs[0].exp() * (logs[0] - logs[1])).sum())
        largest = max(largest, float((first - second).abs().max()))
        for place, log in enumerate(logs):
            lost[place] -= float(log.gather(1, following).sum())
    perplexity = math.exp(lost[0] / tokens), math.exp(lost[1] / tokens)
    return Comparison(tokens, same / tokens, divergence / tokens, perplexity, largest)
