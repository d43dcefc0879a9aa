"""Train the demo model: one readable loop."""

import json
import os
import time
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import asdict, dataclass
from itertools import islice
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from tokenizers import Tokenizer
from transformers import DeepseekV3Config

from fullbore.errors import UsageError
from fullbore.train.batches import batch_of
from fullbore.train.demo_data import questions
from fullbore.train.export import stored_values, write_weights
from fullbore.train.network import DemoNetwork, PackedBatch
from fullbore.train.optimiser import Optimiser
from fullbore.train.tokens import BOS_ID, EOS_ID, PAD_ID, train_tokenizer, write_tokenizer

POSITIONS = 163840
WARMUP = 50  # steps


@dataclass(frozen=True)
class Recipe:
    """Everything the result depends on. Rates rise over ``WARMUP`` steps and fall to 0 over the last part."""

    seed: int = 1
    steps: int = 5000
    decay: float = 0.7  # share of the steps
    stored_from: float = 0.75  # share of the steps after which the loss is taken at the stored (FP8) values
    sequences: int = 40  # in one step
    muon_rate: float = 0.005
    adam_rate: float = 0.003
    weight_decay: float = 0.02
    mtp_every: int = 4  # steps
    balance_speed: float = 0.002
    vocab_size: int = 1024
    hidden_size: int = 256
    layers: int = 4
    moe_width: int = 64
    dense_width: int = 512

    def rate(self, step: int) -> float:
        """Factor of the learning rates at ``step``."""
        return min(1.0, (step + 1) / WARMUP, (1 - step / self.steps) / self.decay)


def model_config(recipe: Recipe) -> DeepseekV3Config:
    """The published shape made small; routing, YaRN and the rest as published."""
    return DeepseekV3Config(
        vocab_size=recipe.vocab_size, hidden_size=recipe.hidden_size, intermediate_size=recipe.dense_width,
        moe_intermediate_size=recipe.moe_width, num_hidden_layers=recipe.layers, num_attention_heads=4,
        num_key_value_heads=4, n_shared_experts=1, n_routed_experts=16, num_experts_per_tok=4, n_group=4,
        topk_group=2,
        routed_scaling_factor=2.5, norm_topk_prob=True, first_k_dense_replace=1, q_lora_rank=128,
        kv_lora_rank=128,
        qk_nope_head_dim=64, qk_rope_head_dim=32, v_head_dim=64, num_nextn_predict_layers=1,
        rms_norm_eps=1e-6,
        max_position_embeddings=POSITIONS, tie_word_embeddings=False, attention_bias=False,
        bos_token_id=BOS_ID,
        eos_token_id=EOS_ID, pad_token_id=PAD_ID,
        rope_parameters={
            "rope_type": "yarn", "rope_theta": 10000.0, "factor": 40.0,
            "original_max_position_embeddings": 4096,
            "beta_fast": 32.0, "beta_slow": 1.0, "mscale": 1.0, "mscale_all_dim": 1.0,
        },
    )  # fmt: skip


def make_tokenizer(recipe: Recipe) -> Tokenizer:
    """The tokenizer learnt from 20,000 training questions of the recipe's seed."""
    drawn = islice(questions("train", f"{recipe.seed}:tokenizer"), 20000)
    texts = (text for q in drawn for text in (*(m["content"] for m in q.messages), q.thinking, q.answer))
    return train_tokenizer(texts, recipe.vocab_size)


class Trainer:
    """A run: the network, its optimiser and how far it is. ``resume`` continues what ``save`` wrote."""

    def __init__(self, recipe: Recipe) -> None:
        self.recipe = recipe
        self.tokenizer = make_tokenizer(recipe)
        self.network = DemoNetwork(model_config(recipe), recipe.seed)
        self.optimiser = Optimiser(self.network, recipe.muon_rate, recipe.adam_rate, recipe.weight_decay)
        self.step = 0
        self.tokens = 0
        self.seconds = 0.0

    def train_step(self) -> dict[str, float]:
        """One update; returns its losses and the worst expert load over the mean."""
        recipe = self.recipe
        progress = self.step / recipe.steps
        drawn = questions("train", f"{recipe.seed}:{self.step}")
        batch = batch_of(self.tokenizer, list(islice(drawn, recipe.sequences)))
        with stored_values(self.network) if progress >= recipe.stored_from else nullcontext():
            loss, mtp = self._backward(batch, with_mtp=self.step % recipe.mtp_every == 0)
        self.optimiser.step(recipe.rate(self.step))
        worst = self.network.balance(recipe.balance_speed * (1 if progress < 1 - recipe.decay / 2 else 0))
        self.step += 1
        self.tokens += len(batch.tokens)
        return {"loss": loss, "mtp": mtp, "load": worst}

    def _backward(self, batch: PackedBatch, with_mtp: bool) -> tuple[float, float]:
        loss, mtp = self.network.losses(batch, with_mtp)
        torch.autograd.backward(loss if mtp is None else loss + mtp)
        return float(loss.detach()), float("nan") if mtp is None else float(mtp.detach())

    def save(self, path: Path) -> None:
        """Full state as safetensors, in one move."""
        state = {f"network.{name}": tensor.contiguous() for name, tensor in self.network.state_dict().items()}
        state |= {f"optimiser.{name}": tensor for name, tensor in self.optimiser.state.items()}
        facts = {
            "step": self.step,
            "tokens": self.tokens,
            "seconds": self.seconds,
            "recipe": asdict(self.recipe),
        }
        fresh = path.with_suffix(".part")
        save_file(state, fresh, {"facts": json.dumps(facts)})
        os.replace(fresh, path)

    def resume(self, path: Path) -> None:
        """Continue from what ``save`` wrote."""
        with safe_open(path, "pt") as file:
            facts = json.loads(file.metadata()["facts"])
            state = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        network = {n.removeprefix("network."): t for n, t in state.items() if n.startswith("network.")}
        self.network.load_state_dict(network)
        for name, tensor in self.optimiser.state.items():
            tensor.copy_(state[f"optimiser.{name}"])
        self.step, self.tokens, self.seconds = facts["step"], facts["tokens"], facts["seconds"]

    def export(self, folder: Path) -> None:
        """Write the checkpoint in the published format into ``folder``."""
        folder.mkdir(parents=True, exist_ok=True)
        write_weights(self.network, folder)
        write_tokenizer(self.tokenizer, folder, POSITIONS)


def check_recipe(path: Path, recipe: Recipe) -> None:
    """UsageError where ``path`` is not what ``Trainer.save`` wrote of a run of ``recipe``."""
    try:
        with safe_open(path, "pt") as file:
            saved = json.loads(file.metadata()["facts"])["recipe"]
    except (SafetensorError, ValueError, KeyError, TypeError) as error:
        raise UsageError(
            f"{path} is no unfinished run ({error}); delete it, or use another folder"
        ) from error
    wanted = json.loads(json.dumps(asdict(recipe)))
    unlike = [name for name in wanted if saved.get(name) != wanted[name]]
    if unlike:
        raise UsageError(
            f"{path} is an unfinished run of another recipe (they differ in {', '.join(unlike)}); "
            "give the flags it was begun with, or another folder, or delete it"
        )


def train(
    trainer: Trainer,
    state: Path,
    report: Callable[[str], None],
    every: int = 50,
    stop: Callable[[], bool] = lambda: False,
) -> None:
    """Run to the recipe's last step; ``state`` is written every 2 minutes and at the end.

    When ``stop`` says so after a step, the state is written and KeyboardInterrupt raised.
    """
    losses: list[float] = []
    mtps: list[float] = []
    begun, saved = time.monotonic() - trainer.seconds, time.monotonic()
    while trainer.step < trainer.recipe.steps:
        figures = trainer.train_step()
        trainer.seconds = time.monotonic() - begun
        losses.append(figures["loss"])
        mtps += [figures["mtp"]] if figures["mtp"] == figures["mtp"] else []
        if trainer.step % every == 0:
            report(
                f"step {trainer.step} of {trainer.recipe.steps}, {trainer.seconds / 60:.1f} min, "
                f"{trainer.tokens / trainer.seconds:.0f} tokens/s, loss {sum(losses) / len(losses):.4f}, "
                f"mtp {sum(mtps) / max(1, len(mtps)):.4f}, load {figures['load']:.2f}"
            )
            losses, mtps = [], []
        if stop():
            trainer.save(state)
            raise KeyboardInterrupt
        if time.monotonic() - saved > 120:
            trainer.save(state)
            saved = time.monotonic()
    trainer.save(state)
