"""Token batches from questions."""

from collections.abc import Sequence

import torch
from tokenizers import Tokenizer

from fullbore.train.demo_data import Question
from fullbore.train.network import IGNORE, PackedBatch
from fullbore.train.tokens import prompt_text, reply_text


def batch_of(tokenizer: Tokenizer, drawn: Sequence[Question], groups: int = 4) -> PackedBatch:
    """Questions with their replies; only replies have a loss."""
    prompts = tokenizer.encode_batch_fast([prompt_text(q.messages) for q in drawn], add_special_tokens=False)
    replies = tokenizer.encode_batch_fast([reply_text(q) for q in drawn], add_special_tokens=False)
    pairs = [(prompt.ids, reply.ids) for prompt, reply in zip(prompts, replies, strict=True)]
    return pack(pairs, groups)


def pack(pairs: list[tuple[list[int], list[int]]], groups: int) -> PackedBatch:
    """(prompt, reply) ids -> a packed batch: sequences by length, cut into ``groups`` of equal count."""
    pairs = sorted(pairs, key=lambda pair: len(pair[0]) + len(pair[1]))
    tokens: list[int] = []
    positions: list[int] = []
    targets: list[int] = []
    later: list[int] = []
    spans: list[tuple[int, int]] = []
    for prompt, reply in pairs:
        ids = prompt + reply
        wanted = [IGNORE] * len(prompt) + reply
        spans.append((len(tokens), len(ids)))
        tokens += ids
        positions += range(len(ids))
        targets += [*wanted[1:], IGNORE]
        later += [*wanted[2:], IGNORE, IGNORE]
    size = -(-len(spans) // groups)
    indices, back, offset = [], torch.empty(len(tokens), dtype=torch.long), 0
    for start in range(0, len(spans), size):
        part = spans[start : start + size]
        longest = max(count for _, count in part)
        index = torch.zeros(
            len(part), longest, dtype=torch.long
        )  # padding repeats token 0, after the end: never seen
        for row, (first, count) in enumerate(part):
            index[row, :count] = torch.arange(first, first + count)
            back[first : first + count] = torch.arange(count) + offset + row * longest
        indices.append(index)
        offset += index.numel()
    return PackedBatch(
        torch.tensor(tokens),
        torch.tensor(positions),
        torch.tensor(targets),
        torch.tensor(later),
        tuple(indices),
        back,
    )
