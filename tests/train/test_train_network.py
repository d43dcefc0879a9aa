"""The training network is transformers' own: packing, sorting and the MTP layer change no number."""

from copy import deepcopy
from itertools import islice

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.nn import functional
from transformers import DeepseekV3ForCausalLM

from fullbore.train.batches import pack
from fullbore.train.demo import Recipe, Trainer, model_config
from fullbore.train.demo_data import questions
from fullbore.train.network import DemoNetwork
from fullbore.train.tokens import prompt_text, reply_text

Pair = tuple[list[int], list[int]]


@pytest.fixture(scope="module")
def network(trainer: Trainer) -> DemoNetwork:
    return trainer.network.eval()


@pytest.fixture(scope="module")
def plain(network: DemoNetwork) -> DeepseekV3ForCausalLM:
    """transformers' model with these weights, its attention and its experts untouched."""
    config = deepcopy(network.main.config)
    config._attn_implementation = "eager"
    model = DeepseekV3ForCausalLM(config).eval()
    model.load_state_dict(network.main.state_dict())
    return model


@pytest.fixture(scope="module")
def pairs(trainer: Trainer) -> list[Pair]:
    """(prompt, reply) ids of some questions."""

    def ids(text: str) -> list[int]:
        encoded: list[int] = trainer.tokenizer.encode(text, add_special_tokens=False).ids
        return encoded

    drawn = islice(questions("train", "network"), 9)
    return [(ids(prompt_text(q.messages)), ids(reply_text(q))) for q in drawn]


def losses(network: DemoNetwork, pairs: list[Pair], groups: int) -> tuple[float, float]:
    with torch.no_grad():
        loss, mtp = network.losses(pack(pairs, groups), with_mtp=True)
    assert mtp is not None
    return float(loss), float(mtp)


@pytest.mark.parametrize("groups", [1, 2, 4, 20])
def test_the_loss_is_transformers_own_over_the_replies(
    network: DemoNetwork, plain: DeepseekV3ForCausalLM, pairs: list[Pair], groups: int
) -> None:
    """Each sequence alone and unpadded in transformers; the prompt is read but has no loss."""
    total, count = 0.0, 0
    with torch.no_grad():
        for prompt, reply in pairs:
            logits = plain(torch.tensor([prompt + reply]), use_cache=False).logits[0, len(prompt) - 1 : -1]
            total += float(functional.cross_entropy(logits, torch.tensor(reply), reduction="sum"))
            count += len(reply)
    assert losses(network, pairs, groups)[0] == pytest.approx(total / count, rel=1e-5)


ids = st.lists(st.integers(0, 399), min_size=1, max_size=9)


@settings(max_examples=15)
@given(st.lists(st.tuples(ids, ids), min_size=2, max_size=5), st.integers(1, 4))
def test_sequences_of_a_batch_do_not_see_each_other(
    network: DemoNetwork, drawn: list[Pair], groups: int
) -> None:
    """The batch's losses are the means of those of its sequences, each in a batch of its own."""
    together = losses(network, drawn, groups)
    alone = [losses(network, [pair], 1) for pair in drawn]
    batches = [pack([pair], 1) for pair in drawn]
    for which in range(2):
        counts = [int(((b.targets, b.later_targets)[which] >= 0).sum()) for b in batches]
        known = [(one[which], n) for one, n in zip(alone, counts, strict=True) if n]
        mean = sum(loss * n for loss, n in known) / max(1, sum(counts))
        assert not known or together[which] == pytest.approx(mean, rel=1e-4)


def test_a_prompt_matters_to_its_reply_alone(network: DemoNetwork, pairs: list[Pair]) -> None:
    """Turned round: what the prompt says changes the loss, so it is read."""
    prompt, reply = pairs[0]
    other = [*prompt[:-4], *reversed(prompt[-4:])]
    assert losses(network, [(prompt, reply)], 1) != pytest.approx(
        losses(network, [(other, reply)], 1), rel=1e-6
    )


def test_the_draft_layer_does_not_disturb_the_main_model(tiny: Recipe, pairs: list[Pair]) -> None:
    network = DemoNetwork(model_config(tiny), 3)
    loss, mtp = network.losses(pack(pairs, 2), with_mtp=True)
    assert mtp is not None
    torch.autograd.backward(mtp)
    assert all(weight.grad is None for weight in network.main.parameters())
    missing = [name for name, weight in network.mtp.named_parameters() if weight.grad is None]
    assert not missing
    torch.autograd.backward(loss)
    assert all(weight.grad is not None for weight in network.main.parameters())
    assert network.losses(pack(pairs, 2), with_mtp=False)[1] is None


def test_balance_moves_the_bias_of_busy_experts_down_and_of_idle_ones_up(
    tiny: Recipe, pairs: list[Pair]
) -> None:
    network = DemoNetwork(model_config(tiny), 3)
    moes = network.moes()
    assert len(moes) == tiny.layers - 1 + 1  # one dense layer, and the MTP layer
    with torch.no_grad():
        network.losses(pack(pairs, 2), with_mtp=True)
    tokens = sum(len(prompt) + len(reply) for prompt, reply in pairs)
    counts: list[Tensor] = [moe.experts.counts for moe in moes]
    assert all(int(count.sum()) == 4 * tokens for count in counts)
    worst = network.balance(0.01)
    assert worst == pytest.approx(max(float(count.max() / count.mean()) for count in counts))
    for moe, count in zip(moes, counts, strict=True):
        expected = 0.01 * torch.sign(count.mean() - count)
        assert torch.equal(moe.gate.e_score_correction_bias, expected)
        assert set(torch.sign(expected).tolist()) >= {-1.0, 1.0}
        assert not bool(moe.experts.counts.any())
    assert network.balance(0.01) == 1.0  # nothing was counted since: nothing moves
    assert torch.equal(moes[0].gate.e_score_correction_bias, 0.01 * torch.sign(counts[0].mean() - counts[0]))


def test_balancing_evens_out_a_lopsided_router(tiny: Recipe, pairs: list[Pair]) -> None:
    network = DemoNetwork(model_config(tiny), 3)
    batch = pack(pairs, 2)
    worst = []
    with torch.no_grad():
        for _ in range(60):
            network.losses(batch, with_mtp=False)
            worst.append(network.balance(0.01))
    assert sum(worst[-5:]) / 5 < 0.75 * sum(worst[:5]) / 5


def test_a_seed_decides_the_weights(tiny: Recipe) -> None:
    one, same, other = (DemoNetwork(model_config(tiny), seed).state_dict() for seed in (3, 3, 4))
    assert all(torch.equal(one[name], same[name]) for name in one)
    assert not torch.equal(one["main.lm_head.weight"], other["main.lm_head.weight"])
    assert all(bool(tensor.isfinite().all()) for tensor in one.values())
