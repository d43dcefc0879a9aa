"""The training network is transformers' own, learns, resumes, and is stored as what the server loads."""

from dataclasses import replace
from itertools import islice
from pathlib import Path

import pytest
import torch

from fullbore.errors import UsageError
from fullbore.model.batch import Batch
from fullbore.model.load import load_model
from fullbore.server.tokenizer import Tokenizer as ServedTokenizer
from fullbore.train.batches import batch_of
from fullbore.train.demo import Recipe, Stage, Trainer
from fullbore.train.demo_data import questions
from fullbore.train.export import as_stored, read_weights, stored_values
from fullbore.train.network import IGNORE
from fullbore.train.optimiser import orthogonalise
from fullbore.train.tokens import END_THINK, EOS_ID, prompt_text, reply_text

TINY = Recipe(
    stages=(Stage(56, 0.5, 0.9), Stage(4, 1.0, 0.0, restate=True)),
    sequences=6, hidden_size=64, layers=2, moe_width=16, dense_width=32, vocab_size=400,
)  # fmt: skip
DRAWN = list(islice(questions("train", "batch"), 9))


@pytest.fixture(scope="module")
def trainer() -> Trainer:
    return Trainer(TINY)


@pytest.fixture(scope="module")
def stored(trainer: Trainer, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("model")
    trainer.export(folder)
    return folder


def test_only_replies_have_targets_and_each_is_the_next_token(trainer: Trainer) -> None:
    batch = batch_of(trainer.tokenizer, DRAWN)
    starts = (batch.positions == 0).nonzero()[:, 0].tolist()
    assert len(starts) == len(DRAWN)
    found = []
    for start, end in zip(starts, [*starts[1:], len(batch.tokens)], strict=True):
        ids, targets, later = (x[start:end] for x in (batch.tokens, batch.targets, batch.later_targets))
        begin = int((targets != IGNORE).nonzero()[0])
        assert bool((targets[:begin] == IGNORE).all())
        assert torch.equal(targets[begin:-1], ids[begin + 1 :])
        assert torch.equal(later[begin:-2], ids[begin + 2 :])
        assert int(targets[-1]) == IGNORE
        assert int(ids[-1]) == EOS_ID
        found.append((ids[: begin + 1].tolist(), ids[begin + 1 :].tolist()))
    expected = [
        tuple(trainer.tokenizer.encode(text, add_special_tokens=False).ids for text in pair)
        for pair in ((prompt_text(q.messages), reply_text(q)) for q in DRAWN)
    ]
    assert sorted(found) == sorted(expected)


def test_packing_changes_no_loss(trainer: Trainer) -> None:
    """The mean over a packed batch is the mean over its sequences, each alone in transformers."""
    network = trainer.network.eval()
    with torch.no_grad():
        loss, mtp = network.losses(batch_of(trainer.tokenizer, DRAWN), with_mtp=True)
        network.main.set_attn_implementation("sdpa")
        total, count = 0.0, 0
        for question in DRAWN:
            texts = prompt_text(question.messages), reply_text(question)
            prompt, reply = (trainer.tokenizer.encode(t, add_special_tokens=False).ids for t in texts)
            logits = network.main(torch.tensor([prompt + reply]), use_cache=False).logits[0]
            total += float(
                torch.nn.functional.cross_entropy(
                    logits[len(prompt) - 1 : -1], torch.tensor(reply), reduction="sum"
                )
            )
            count += len(reply)
        network.main.set_attn_implementation("packed")
    assert float(loss) == pytest.approx(total / count, rel=1e-4)
    assert mtp is not None
    assert 0 < float(mtp) < 20


def test_it_learns_and_goes_on_where_it_was(tmp_path: Path) -> None:
    one = Trainer(TINY)
    losses = [one.train_step()["loss"] for _ in range(58)]
    assert sum(losses[-3:]) < 0.8 * sum(losses[:3])
    one.save(tmp_path / "state.safetensors")
    other = Trainer(TINY)
    other.resume(tmp_path / "state.safetensors")
    assert (other.step, other.tokens) == (58, one.tokens)
    for _ in range(2):
        assert one.train_step()["loss"] == other.train_step()["loss"]
    with pytest.raises(UsageError, match="60"):
        one.train_step()


def test_rates_rise_and_fall_in_every_stage() -> None:
    stage = Stage(200, 0.5, 0.0)
    rates = [stage.rate(step) for step in range(200)]
    assert rates[0] < rates[10] < rates[60] == 1.0
    assert rates[:50] == sorted(rates[:50])
    assert rates[100:] == sorted(rates[100:], reverse=True)
    assert 0 < rates[-1] < 0.02


def test_a_recipe_is_cut_in_proportion() -> None:
    recipe = replace(TINY, stages=(Stage(300, 0.5, 0.5), Stage(100, 0.5, 0.5)))
    assert [stage.steps for stage in recipe.shortened(40).stages] == [30, 10]
    assert [stage.steps for stage in recipe.shortened(1).stages] == [1, 1]
    assert recipe.stage_at(299) == (recipe.stages[0], 299)
    assert recipe.stage_at(300) == (recipe.stages[1], 0)


def test_orthogonalised_matrices_keep_directions_and_even_out_lengths() -> None:
    matrices = torch.randn(3, 20, 33, generator=torch.Generator().manual_seed(1))
    values = torch.linalg.svdvals(orthogonalise(matrices, steps=8))
    assert float(values.min()) > 0.6
    assert float(values.max()) < 1.3


def test_training_sees_the_values_that_are_stored(trainer: Trainer, stored: Path) -> None:
    weights = read_weights(stored)
    full = trainer.network.main.lm_head.weight.clone()
    with stored_values(trainer.network):
        own = dict(trainer.network.named_parameters())
        for name in ("model.layers.0.self_attn.o_proj.weight", "lm_head.weight"):
            assert torch.equal(own[f"main.{name}"].detach(), weights[name])
        stacked = own["main.model.layers.1.mlp.experts.gate_up_proj"].detach()
        for half, value in zip(("gate", "up"), stacked[3].chunk(2), strict=True):
            assert torch.equal(value, weights[f"model.layers.1.mlp.experts.3.{half}_proj.weight"])
    assert torch.equal(trainer.network.main.lm_head.weight, full)
    assert not torch.equal(as_stored(full), full)


def test_the_server_loads_what_was_trained(trainer: Trainer, stored: Path) -> None:
    """Logits of the stored model, as the engine computes them, are the training network's."""
    model = load_model(stored, "float32")
    assert len(model.mtp) == 1
    ids = trainer.tokenizer.encode(prompt_text(DRAWN[0].messages), add_special_tokens=False).ids
    count = len(ids)
    batch = Batch(
        tokens=torch.tensor(ids), positions=torch.arange(count), slots=torch.arange(count), decode_rows=0,
        page_table=torch.arange(-(-count // 16), dtype=torch.int32)[None],
        contexts=torch.tensor([count], dtype=torch.int32), prefills=((0, count, 0),),
        logits_at=torch.arange(count),
    )  # fmt: skip
    logits = model.forward(batch, model.new_cache(-(-count // 16), 16))
    network = trainer.network.eval()
    network.main.set_attn_implementation("sdpa")
    with torch.no_grad(), stored_values(network):
        expected = network.main(torch.tensor([ids]), use_cache=False).logits[0]
    network.main.set_attn_implementation("packed")
    assert float((logits - expected).abs().max() / expected.abs().max()) < 1e-4


def test_the_served_template_writes_what_was_trained(trainer: Trainer, stored: Path) -> None:
    served = ServedTokenizer.load(stored, TINY.vocab_size)
    for question in islice(questions("train", "template"), 200):
        expected = trainer.tokenizer.encode(prompt_text(question.messages), add_special_tokens=False).ids
        assert served.encode_chat(list(question.messages)) == expected
        assert served.starts_in_reasoning(expected)
    reply = trainer.tokenizer.encode(reply_text(DRAWN[0]), add_special_tokens=False).ids
    assert END_THINK in served.decode(reply)
