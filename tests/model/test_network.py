"""The network itself: any schedule gives the same bits, requests are isolated, drafts follow the formula."""

import math
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from small_models import (
    YARN,
    DictSource,
    PagedRun,
    random_weights,
    relative_error,
    small_config,
    transformers_logits,
    transformers_model,
)

from fullbore.model.config import RopeConfig
from fullbore.model.deepseek import DeepseekV3
from fullbore.model.load import build
from fullbore.model.rotary import Rotary, inverse_frequencies


def model_of(dtype: str = "float32", fp8: bool = False, kv_bits: int = 0, **changes: Any) -> DeepseekV3:
    config = small_config(**changes)
    return build(config, DictSource(config, random_weights(config, 3), fp8), dtype, kv_bits=kv_bits)


MODELS = {
    "lora, yarn": model_of(rope=YARN),
    "ragged": model_of(
        q_lora_rank=None, hidden_size=52, num_attention_heads=3, v_head_dim=7, kv_lora_rank=20
    ),
    "fp8 cache": model_of(kv_bits=8, kv_lora_rank=140, rope=YARN),
    "bf16 cache": model_of(kv_bits=16),
    "fp8, tied": model_of(fp8=True, quantised=True, tie_word_embeddings=True, hidden_size=136),
}
sequences = st.lists(st.lists(st.integers(0, 100), min_size=1, max_size=40), min_size=1, max_size=6)
schedules = st.lists(st.lists(st.integers(0, 15), min_size=6, max_size=6), min_size=1, max_size=5)


@settings(max_examples=40, deadline=None)
@given(st.sampled_from(sorted(MODELS)), sequences, schedules, st.sampled_from([1, 5, 16]))
def test_float32_logits_are_the_same_bits_alone_and_in_any_schedule(
    name: str, tokens: list[list[int]], schedule: list[list[int]], page: int
) -> None:
    """So greedy output is the same alone and in any batch, after preemption, and from cached prefixes."""
    mixed = PagedRun(MODELS[name], tokens, page, seed=1).finish([*schedule, [1] * 6])
    for ids, logits in zip(tokens, mixed, strict=True):
        (alone,) = PagedRun(MODELS[name], [ids], page, seed=2).finish([[len(ids)]])
        assert torch.equal(logits, alone)


def test_a_request_of_broken_values_does_not_touch_others() -> None:
    model = MODELS["lora, yarn"]
    tokens = [[5, 6, 7, 8, 9], [11, 12, 13]]
    clean = PagedRun(model, tokens, 4, seed=3).finish([[5, 3]])
    broken = PagedRun(model, tokens, 4, seed=3)
    for layer in broken.cache:
        layer.fill_(float("nan"))  # every slot that nothing has been written to
    for one, other in zip(clean, broken.finish([[3, 1], [1, 1]]), strict=True):
        assert torch.equal(one, other)


def test_only_the_wanted_logits_are_computed() -> None:
    model = MODELS["lora, yarn"]
    run, other = (PagedRun(model, [[5, 6, 7, 8], [9, 8, 7]], 4, seed=1) for _ in range(2))
    batch, _ = run.batch([4, 3])
    wanted = torch.tensor([3, 6])
    some = model.forward(type(batch)(**vars(batch) | {"logits_at": wanted}), run.cache)
    assert some.shape == (2, model.config.vocab_size)
    assert some.dtype == torch.float32
    assert torch.equal(some, model.forward(batch, other.cache)[wanted])


def test_mtp_follows_its_formula() -> None:
    """Compared with a main model of one layer whose embedding table is the joined input (section 2.2)."""
    config = small_config(num_nextn_predict_layers=1, first_k_dense_replace=0, num_hidden_layers=1)
    weights = random_weights(config, 4)
    model = build(config, DictSource(config, weights), "float32")
    tokens = [17, 3, 99, 54, 3, 20, 1, 77]
    run = PagedRun(model, [tokens[:-1]], 4, seed=1)
    batch, _ = run.batch([len(tokens) - 1])
    hidden = model.hidden(batch, run.cache)  # [7, hidden]

    def norm(x: torch.Tensor, name: str) -> torch.Tensor:
        weight = weights[f"model.layers.1.{name}.weight"]
        return x / (x.square().mean(-1, keepdim=True) + config.rms_norm_eps).sqrt() * weight

    ahead = weights["model.embed_tokens.weight"][torch.tensor(tokens[1:])]
    joined = torch.cat([norm(ahead, "enorm"), norm(hidden, "hnorm")], dim=-1)
    joined = joined @ weights["model.layers.1.eh_proj.weight"].T
    inner = {
        name.replace("layers.1.", "layers.0."): tensor
        for name, tensor in weights.items()
        if name.startswith("model.layers.1.") and not name.startswith(tuple(
            f"model.layers.1.{part}" for part in ("enorm", "hnorm", "eh_proj", "shared_head")
        ))
    }  # fmt: skip
    table = torch.zeros(config.vocab_size, config.hidden_size)
    table[: len(joined)] = joined
    inner["model.embed_tokens.weight"] = table
    inner["model.norm.weight"] = weights["model.layers.1.shared_head.norm.weight"]
    inner["lm_head.weight"] = weights["lm_head.weight"]
    expected = transformers_logits(
        transformers_model(small_config(num_hidden_layers=1, first_k_dense_replace=0), inner),
        list(range(len(joined))),
    )
    shifted = type(batch)(**vars(batch) | {"tokens": torch.tensor(tokens[1:])})
    logits, state = model.mtp[0].forward(shifted, hidden, model.mtp[0].new_cache(len(run.cache[0]), 4))
    assert state.shape == hidden.shape
    assert relative_error(logits, expected) <= 1e-4


def test_published_yarn_numbers() -> None:
    """The published model: dimensions up to 10 keep their speed, from 23 on they turn 40 times slower."""
    published = RopeConfig(10000.0, 40.0, 4096, 32.0, 1.0, 1.0, 1.0)
    stretched, plain = inverse_frequencies(published, 64), inverse_frequencies(RopeConfig(10000.0), 64)
    ratio = plain / stretched
    assert torch.allclose(ratio[:11], torch.ones(11))
    assert torch.allclose(ratio[23:], torch.full((9,), 40.0))
    assert bool((ratio[11:23].diff() > 0).all())
    cos, sin = Rotary(published, 64)(torch.tensor([0, 100_000]))
    assert cos.shape == sin.shape == (2, 32)
    assert torch.allclose(cos.square() + sin.square(), torch.ones(2, 32))


def test_the_attention_scale_of_the_published_model() -> None:
    rope = RopeConfig(10000.0, 40.0, 4096, 32.0, 1.0, 1.0, 1.0)
    config = small_config(qk_nope_head_dim=128, qk_rope_head_dim=64, rope=rope)
    assert math.isclose(config.softmax_scale, 0.1352338, rel_tol=1e-6)


@pytest.mark.parametrize("page_size", [1, 7, 16])
def test_cache_shape(page_size: int) -> None:
    for name, width in (("lora, yarn", 40), ("bf16 cache", 40), ("fp8 cache", 140 + 2 * 4 + 2 * 8)):
        cache = MODELS[name].new_cache(5, page_size)
        assert [tuple(layer.shape) for layer in cache] == [(5, page_size, width)] * 3


def test_a_coarser_cache_costs_little_and_something() -> None:
    """Of a dense model: where a token changes experts for a rounding, its logits are others altogether."""
    tokens = [[(7 * place) % 101 for place in range(40)]]
    (exact,), (half,), (fp8,) = (
        PagedRun(model_of(kv_bits=bits, first_k_dense_replace=3), tokens, 4, seed=1).finish([[40]])
        for bits in (0, 16, 8)
    )
    assert 0 < relative_error(half, exact) < 0.03
    assert relative_error(half, exact) < relative_error(fp8, exact) < 0.2


def test_mtp_has_a_cache_of_the_models_kind() -> None:
    model = model_of(kv_bits=8, num_nextn_predict_layers=1)
    assert model.mtp[0].new_cache(3, 4).shape == model.new_cache(3, 4)[0].shape
    assert model.mtp[0].new_cache(3, 4).dtype is torch.uint8
