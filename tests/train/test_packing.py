"""Sequences behind one another in one row of tokens, and the way to their groups and back."""

from itertools import islice

import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer

from fullbore.train.batches import batch_of, pack
from fullbore.train.demo_data import questions
from fullbore.train.network import IGNORE
from fullbore.train.tokens import prompt_text, reply_text

ids = st.lists(st.integers(0, 99), min_size=1, max_size=12)
pairs = st.lists(st.tuples(ids, ids), min_size=1, max_size=9)
quick = settings(max_examples=60)


@quick
@given(pairs, st.integers(1, 6))
def test_only_replies_have_targets_and_each_is_the_next_token(
    drawn: list[tuple[list[int], list[int]]], groups: int
) -> None:
    batch = pack(drawn, groups)
    starts = (batch.positions == 0).nonzero()[:, 0].tolist()
    found = []
    for start, end in zip(starts, [*starts[1:], len(batch.tokens)], strict=True):
        tokens, targets, later = (
            x[start:end].tolist() for x in (batch.tokens, batch.targets, batch.later_targets)
        )
        assert batch.positions[start:end].tolist() == list(range(end - start))
        begin = next(n for n, target in enumerate(targets) if target != IGNORE) + 1
        found.append((tokens[:begin], tokens[begin:]))
        for n in range(end - start):
            assert targets[n] == (tokens[n + 1] if begin <= n + 1 < end - start else IGNORE)
            assert later[n] == (tokens[n + 2] if begin <= n + 2 < end - start else IGNORE)
    assert sorted(found) == sorted(drawn)


@quick
@given(pairs, st.integers(1, 6))
def test_groups_hold_every_sequence_once_and_lead_back(
    drawn: list[tuple[list[int], list[int]]], groups: int
) -> None:
    batch = pack(drawn, groups)
    assert len(batch.groups) <= groups
    assert sum(len(group) for group in batch.groups) == len(drawn)
    everywhere = torch.cat([group.flatten() for group in batch.groups])
    assert torch.equal(everywhere[batch.back], torch.arange(len(batch.tokens)))
    lengths = []
    for group in batch.groups:
        own = []
        for row in group.tolist():
            count = next((n for n in range(1, len(row)) if row[n] != row[n - 1] + 1), len(row))
            assert int(batch.positions[row[0]]) == 0
            assert set(row[count:]) <= {0}  # padding, behind the end
            own.append(count)
        assert max(own) == group.shape[1]  # no wider than its longest
        lengths += own
    assert lengths == sorted(lengths)  # alike lengths lie together
    assert lengths == sorted(len(prompt) + len(reply) for prompt, reply in drawn)


def test_a_batch_is_of_the_texts_of_its_questions(tokenizer: Tokenizer) -> None:
    drawn = list(islice(questions("train", "batch"), 20))
    expected = [
        tuple(tokenizer.encode(text, add_special_tokens=False).ids for text in pair)
        for pair in ((prompt_text(q.messages), reply_text(q)) for q in drawn)
    ]
    batch, same = batch_of(tokenizer, drawn), pack(expected, 4)
    assert torch.equal(batch.tokens, same.tokens)
    assert torch.equal(batch.targets, same.targets)
