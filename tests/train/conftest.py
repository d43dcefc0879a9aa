"""A tiny recipe, and a tokenizer learnt once: that is what takes the time."""

from collections.abc import Callable
from itertools import islice
from pathlib import Path

import pytest
import torch
from tokenizers import Tokenizer

from fullbore.train import demo
from fullbore.train.demo import Recipe, Trainer
from fullbore.train.demo_data import questions
from fullbore.train.tokens import train_tokenizer

TINY = Recipe(
    steps=30, decay=0.5, stored_from=0.8, sequences=6, hidden_size=64, layers=2, moe_width=16, dense_width=32,
    vocab_size=400,
)  # fmt: skip


@pytest.fixture(scope="session")
def tiny() -> Recipe:
    return TINY


@pytest.fixture(scope="session")
def tokenizer() -> Tokenizer:
    """As ``make_tokenizer`` learns it, from a tenth of the questions."""
    drawn = islice(questions("train", "tokenizer"), 2000)
    texts = (text for q in drawn for text in (*(m["content"] for m in q.messages), q.thinking, q.answer))
    return train_tokenizer(texts, TINY.vocab_size)


@pytest.fixture
def learnt(tokenizer: Tokenizer, monkeypatch: pytest.MonkeyPatch) -> None:
    """Trainers take the tokenizer that is there."""
    monkeypatch.setattr(demo, "make_tokenizer", lambda recipe: tokenizer)


@pytest.fixture(scope="session")
def new_trainer(tokenizer: Tokenizer) -> Callable[[Recipe], Trainer]:
    """A trainer that did not learn its tokenizer anew."""

    def make(recipe: Recipe) -> Trainer:
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(demo, "make_tokenizer", lambda recipe: tokenizer)
            return Trainer(recipe)

    return make


@pytest.fixture(scope="session")
def trainer(new_trainer: Callable[[Recipe], Trainer]) -> Trainer:
    """Nothing in it may be changed by a test: several share it. No norm is 1 and no correction bias 0."""
    made = new_trainer(TINY)
    generator = torch.Generator().manual_seed(2)
    with torch.no_grad():
        for name, tensor in [*made.network.named_parameters(), *made.network.named_buffers()]:
            if "norm" in name:
                tensor += 0.2 * torch.randn(tensor.shape, generator=generator)
            elif name.endswith("e_score_correction_bias"):
                tensor += 0.1 * torch.randn(tensor.shape, generator=generator)
    return made


@pytest.fixture(scope="session")
def stored(trainer: Trainer, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """``trainer``'s network as a published checkpoint."""
    folder = tmp_path_factory.mktemp("model")
    trainer.export(folder)
    return folder
