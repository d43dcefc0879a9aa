"""A run: its rates, that it learns, and that it goes on where it was."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors import safe_open
from safetensors.torch import save_file

from fullbore.errors import UsageError
from fullbore.train import demo
from fullbore.train.demo import Recipe, Trainer, check_recipe, model_config, train
from fullbore.train.network import DemoNetwork

NewTrainer = Callable[[Recipe], Trainer]


def short(tiny: Recipe, steps: int) -> Recipe:
    return replace(tiny, steps=steps, decay=1.0, stored_from=1.0)


@given(st.integers(1, 1000), st.sampled_from([0.1, 0.5, 0.9, 1.0]))
def test_rates_rise_from_nothing_and_fall_to_nothing(steps: int, decay: float) -> None:
    recipe = Recipe(steps=steps, decay=decay)
    rates = [recipe.rate(step) for step in range(steps)]
    assert all(0 < rate <= 1 for rate in rates)
    peak = rates.index(max(rates))
    assert rates[: peak + 1] == sorted(rates[: peak + 1])
    assert rates[peak:] == sorted(rates[peak:], reverse=True)
    assert rates[0] <= 1 / demo.WARMUP
    assert rates[-1] <= 1 / (steps * decay) + 1e-9
    if steps * (1 - decay) > demo.WARMUP:
        assert max(rates) == 1
        assert rates[int(steps * (1 - decay)) - 1] == 1  # held until the decay begins


def test_the_shape_is_the_published_one_made_small() -> None:
    """What makes DeepSeek-V3 what it is stays: groups, sigmoid scores, YaRN, a dense first layer, MTP."""
    config = model_config(Recipe())
    assert (config.n_group, config.topk_group, config.num_experts_per_tok) == (4, 2, 4)
    assert (config.routed_scaling_factor, config.norm_topk_prob) == (2.5, True)
    assert (config.first_k_dense_replace, config.num_nextn_predict_layers) == (1, 1)
    assert (config.rope_parameters["rope_type"], config.rope_parameters["factor"]) == ("yarn", 40.0)
    assert config.max_position_embeddings == 163840
    assert 4_000_000 < sum(w.numel() for w in DemoNetwork(config, 0).parameters()) < 8_000_000


def test_a_dozen_steps_lower_the_loss(
    tiny: Recipe, new_trainer: NewTrainer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(demo, "WARMUP", 3)
    trainer = new_trainer(replace(tiny, steps=14, decay=0.3, stored_from=1.0, mtp_every=1))
    figures = [trainer.train_step() for _ in range(14)]
    for name in ("loss", "mtp"):
        assert sum(each[name] for each in figures[-3:]) < 0.9 * sum(each[name] for each in figures[:3])
    assert trainer.step == 14


def test_it_goes_on_where_it_was(tiny: Recipe, new_trainer: NewTrainer, tmp_path: Path) -> None:
    """To the bit: weights, momentum, counts, expert biases and questions; into stored values, and on."""
    recipe = replace(tiny, steps=9, decay=0.5, stored_from=0.6, mtp_every=2)
    one = new_trainer(recipe)
    for _ in range(4):
        one.train_step()
    state = tmp_path / "state.safetensors"
    one.save(state)
    assert [path.name for path in tmp_path.iterdir()] == ["state.safetensors"]
    check_recipe(state, recipe)
    other = new_trainer(replace(recipe, seed=2))  # what it began with must not matter
    other.recipe = recipe
    other.resume(state)
    assert (other.step, other.tokens) == (4, one.tokens)
    for _ in range(5):
        figures, again = one.train_step(), other.train_step()
        assert str(figures) == str(again)  # nan is not nan
    own, theirs = one.network.state_dict(), other.network.state_dict()
    assert all(torch.equal(own[name], theirs[name]) for name in own)


def test_a_run_reports_saves_and_ends(tiny: Recipe, new_trainer: NewTrainer, tmp_path: Path) -> None:
    trainer = new_trainer(short(tiny, 4))
    lines: list[str] = []
    train(trainer, tmp_path / "state.safetensors", lines.append, every=2)
    assert [line.split(",")[0] for line in lines] == ["step 2 of 4", "step 4 of 4"]
    assert all(word in lines[0] for word in ("tokens/s", "loss", "mtp", "load"))
    assert trainer.seconds > 0
    with safe_open(tmp_path / "state.safetensors", "pt") as file:
        facts = json.loads(file.metadata()["facts"])
    assert (facts["step"], facts["tokens"]) == (4, trainer.tokens)


def test_a_run_that_is_asked_to_stop_ends_after_a_whole_step(
    tiny: Recipe, new_trainer: NewTrainer, tmp_path: Path
) -> None:
    recipe = short(tiny, 3)
    whole = new_trainer(recipe)
    train(whole, tmp_path / "whole.safetensors", print)
    cut = new_trainer(recipe)
    state = tmp_path / "cut.safetensors"
    with pytest.raises(KeyboardInterrupt):
        train(cut, state, print, stop=lambda: cut.step == 2)
    again = new_trainer(recipe)
    again.resume(state)
    assert again.step == 2
    train(again, state, print)
    expected, found = whole.network.state_dict(), again.network.state_dict()
    assert all(torch.equal(expected[name], found[name]) for name in expected)


def test_a_state_of_another_recipe_is_refused_by_what_differs(
    tiny: Recipe, new_trainer: NewTrainer, tmp_path: Path
) -> None:
    state = tmp_path / "state.safetensors"
    new_trainer(tiny).save(state)
    check_recipe(state, tiny)
    with pytest.raises(UsageError, match=r"state\.safetensors .*differ in seed\)"):
        check_recipe(state, replace(tiny, seed=tiny.seed + 1))
    with pytest.raises(UsageError, match="steps, hidden_size"):
        check_recipe(state, replace(tiny, steps=20, hidden_size=96))


def test_a_file_that_is_no_state_is_refused(tiny: Recipe, tmp_path: Path) -> None:
    state = tmp_path / "state.safetensors"
    save_file({"x": torch.zeros(1)}, tmp_path / "plain.safetensors")
    for content in (b"", b"not safetensors at all", (tmp_path / "plain.safetensors").read_bytes()):
        state.write_bytes(content)
        with pytest.raises(UsageError, match="no unfinished run"):
            check_recipe(state, tiny)
