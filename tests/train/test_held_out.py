"""Held-out answers are counted as they are given: greedy, each by itself, exact or not."""

from itertools import islice
from pathlib import Path

import pytest
import torch
from tokenizers import Tokenizer

from fullbore.train import evaluate, report
from fullbore.train.demo import Trainer
from fullbore.train.demo_data import KINDS, Question, questions
from fullbore.train.evaluate import accuracy, replies
from fullbore.train.network import DemoNetwork
from fullbore.train.tokens import EOS_ID, prompt_text, reply_text

ASKED = list(islice(questions("heldout", 3), 60))


@pytest.fixture(scope="module")
def network(trainer: Trainer) -> DemoNetwork:
    return trainer.network.eval()


def greedy(network: DemoNetwork, ids: list[int], max_tokens: int) -> list[int]:
    """One token at a time, each from the whole text so far: no cache, no padding."""
    written: list[int] = []
    with torch.no_grad():
        while len(written) < max_tokens:
            logits = network.main(torch.tensor([ids + written]), use_cache=False).logits[0, -1]
            token = int(logits.argmax())
            if token == EOS_ID:
                break
            written.append(token)
    return written


def test_padding_and_neighbours_change_no_reply(network: DemoNetwork, tokenizer: Tokenizer) -> None:
    asked = ASKED[:7]
    network.main.set_attn_implementation("sdpa")
    expected = []
    for question in asked:
        ids = tokenizer.encode(prompt_text(question.messages), add_special_tokens=False).ids
        expected.append(tokenizer.decode(greedy(network, ids, 10)))
    network.main.set_attn_implementation("packed")
    for rows in (1, 3, 128):
        assert replies(network, tokenizer, asked, max_tokens=10, rows=rows) == expected


def test_a_reply_ends_at_its_end_token(
    network: DemoNetwork, tokenizer: Tokenizer, monkeypatch: pytest.MonkeyPatch
) -> None:
    full = replies(network, tokenizer, ASKED[:5], max_tokens=8)
    ids = tokenizer.encode(prompt_text(ASKED[0].messages), add_special_tokens=False).ids
    network.main.set_attn_implementation("sdpa")
    tokens = greedy(network, ids, 8)
    network.main.set_attn_implementation("packed")
    stop = tokens[-1]
    monkeypatch.setattr(evaluate, "EOS_ID", stop)
    cut = replies(network, tokenizer, ASKED[:5], max_tokens=8)
    assert full[0] == tokenizer.decode(tokens)
    assert cut[0] == tokenizer.decode(tokens[: tokens.index(stop)])
    assert len(cut[0]) < len(full[0])


def true_replies(asked: list[Question], wrong: set[int]) -> list[str]:
    texts = [reply_text(question).partition("<｜end")[0] for question in asked]
    return [text + ("0" if n in wrong else "") for n, text in enumerate(texts)]


@pytest.mark.parametrize("wrong", [set(), {0, 5, 6}, set(range(60))])
def test_exact_answers_are_counted_by_kind(
    wrong: set[int],
    network: DemoNetwork,
    tokenizer: Tokenizer,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(evaluate, "replies", lambda network, tokenizer, asked: true_replies(asked, wrong))
    kinds = accuracy(network, tokenizer, 60, 3, show=2)
    assert kinds.keys() <= set(KINDS)
    for kind, (exact, total) in kinds.items():
        numbers = [n for n, question in enumerate(ASKED) if question.kind == kind]
        assert total == len(numbers)
        assert exact == len([n for n in numbers if n not in wrong])
    assert sum(total for _, total in kinds.values()) == 60
    assert capsys.readouterr().out.count("wrong:") == min(2, len(wrong))


def test_an_answer_inside_the_thought_does_not_count(
    network: DemoNetwork, tokenizer: Tokenizer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(evaluate, "replies", lambda network, tokenizer, asked: [q.answer for q in asked])
    assert all(exact == 0 for exact, _ in accuracy(network, tokenizer, 60, 3).values())


def test_the_report_is_of_the_stored_model(
    trainer: Trainer, stored: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[DemoNetwork] = []

    def counted(network: DemoNetwork, *rest: object) -> dict[str, tuple[int, int]]:
        asked.append(network)
        return {"addition": (3, 4), "other": (1, 4)}

    monkeypatch.setattr(report, "accuracy", counted)
    facts = report.held_out_report(stored, trainer, 8)
    assert facts["exact_percent"] == 50.0
    assert facts["exact_by_kind"] == {"addition": "3 of 4", "other": "1 of 4"}
    assert facts["bytes"] == sum(path.stat().st_size for path in stored.iterdir())
    assert facts["parameters"] == sum(weight.numel() for weight in trainer.network.parameters())
    weight = asked[0].main.model.layers[0].self_attn.o_proj.weight
    assert not torch.equal(weight, trainer.network.main.model.layers[0].self_attn.o_proj.weight)  # FP8
