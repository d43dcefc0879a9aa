"""Small random models for tests, the same weights for transformers, and a paged runner."""

from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Generator, Tensor

from fullbore.model.batch import Batch
from fullbore.model.config import ModelConfig, RopeConfig
from fullbore.model.deepseek import DeepseekV3
from fullbore.model.specs import TensorSpec, tensor_specs
from fullbore.ops.formats import Weight, outline, quantise_fp8_block

YARN = RopeConfig(10000.0, 40.0, 64, 32.0, 1.0, mscale=1.0, mscale_all_dim=0.7)

BASE: dict[str, Any] = {
    "vocab_size": 101, "hidden_size": 64, "num_hidden_layers": 3, "first_k_dense_replace": 1,
    "intermediate_size": 96, "moe_intermediate_size": 40, "num_attention_heads": 4, "q_lora_rank": 48,
    "kv_lora_rank": 32, "qk_nope_head_dim": 16, "qk_rope_head_dim": 8, "v_head_dim": 24,
    "n_routed_experts": 8, "n_shared_experts": 1, "num_experts_per_tok": 3, "n_group": 2, "topk_group": 1,
    "norm_topk_prob": True, "routed_scaling_factor": 2.5, "num_nextn_predict_layers": 0, "rms_norm_eps": 1e-6,
    "rope": RopeConfig(10000.0), "max_position_embeddings": 4096, "tie_word_embeddings": False,
    "attention_bias": False, "bos_token_id": 0, "eos_token_ids": (1,), "quantised": False,
}  # fmt: skip


def small_config(**changes: Any) -> ModelConfig:
    return ModelConfig(**BASE | changes)


def random_weights(config: ModelConfig, seed: int) -> dict[str, Tensor]:
    """Every tensor in float32. Router and correction bias are large, so that tokens choose unlike experts."""
    g = Generator().manual_seed(seed)

    def draw(spec: TensorSpec) -> Tensor:
        values = torch.randn(spec.shape, generator=g)
        if spec.kind == "norm":
            return 1.0 + 0.2 * values
        if spec.kind == "bias":
            return 0.5 * values
        gain = 3.0 if spec.name.endswith("mlp.gate.weight") else 1.0
        return values * gain * max(spec.shape[1], 1) ** -0.5

    return {name: draw(spec) for name, spec in tensor_specs(config).items() if not spec.optional}


@dataclass
class DictSource:
    """A checkpoint in memory. ``fp8``: the matrices that may be are stored as fp8_block."""

    config: ModelConfig
    tensors: dict[str, Tensor]
    fp8: bool = False
    released: list[str] = field(default_factory=list)
    _quantised: dict[str, Weight] = field(default_factory=dict)

    def outline(self, name: str) -> Weight:
        fp8 = self.fp8 and tensor_specs(self.config)[name].kind == "linear"
        return outline(self.tensors[name].shape, "fp8_block" if fp8 else Weight(self.tensors[name]).format)

    def weight(self, name: str) -> Weight:
        if not self.fp8 or tensor_specs(self.config)[name].kind != "linear":
            return Weight(self.tensors[name])
        if name not in self._quantised:
            self._quantised[name] = quantise_fp8_block(self.tensors[name])
        return self._quantised[name]

    def tensor(self, name: str) -> Tensor:
        return self.tensors[name]

    def release(self, name: str) -> None:
        self.released.append(name)

    @property
    def total_bytes(self) -> int:
        return sum(tensor.nbytes for tensor in self.tensors.values())

    def dequantised(self) -> dict[str, Tensor]:
        """What the matrices are worth, for a model that knows no fp8."""
        two = {
            name: self.weight(name).dequantise(torch.float32)
            for name, t in self.tensors.items()
            if t.dim() == 2
        }
        return self.tensors | two


def transformers_model(config: ModelConfig, tensors: dict[str, Tensor]) -> Any:
    """transformers' DeepseekV3ForCausalLM in float32 with these weights (its experts are stacked)."""
    from transformers import DeepseekV3Config, DeepseekV3ForCausalLM

    fields = {
        name: getattr(config, name) for name in BASE if name not in ("rope", "eos_token_ids", "quantised")
    }
    rope: dict[str, Any] = {"rope_type": "default", "rope_theta": config.rope.theta}
    if config.rope.factor > 1.0:
        keys = (
            "factor",
            "original_max_position_embeddings",
            "beta_fast",
            "beta_slow",
            "mscale",
            "mscale_all_dim",
        )
        rope |= {"rope_type": "yarn"} | {key: getattr(config.rope, key) for key in keys}
    fields |= {"rope_parameters": rope, "eos_token_id": 1, "num_nextn_predict_layers": 0}
    fields["num_key_value_heads"] = config.num_attention_heads
    fields |= {"attn_implementation": "eager", "experts_implementation": "eager"}
    with torch.device("meta"):
        model = DeepseekV3ForCausalLM(DeepseekV3Config(**fields))
    model = model.to_empty(device="cpu").float().eval()
    state = dict(tensors)
    for layer in range(config.first_k_dense_replace, config.num_hidden_layers):
        prefix = f"model.layers.{layer}.mlp."

        def experts(part: str, prefix: str = prefix) -> Tensor:
            names = [f"{prefix}experts.{e}.{part}_proj.weight" for e in range(config.n_routed_experts)]
            return torch.stack([state.pop(name) for name in names])

        state[f"{prefix}experts.gate_up_proj"] = torch.cat([experts("gate"), experts("up")], dim=1)
        state[f"{prefix}experts.down_proj"] = experts("down")
        if not config.n_shared_experts:
            for part, shape in (("gate", (0, config.hidden_size)), ("up", (0, config.hidden_size))):
                state[f"{prefix}shared_experts.{part}_proj.weight"] = torch.zeros(shape)
            state[f"{prefix}shared_experts.down_proj.weight"] = torch.zeros(config.hidden_size, 0)
    if config.tie_word_embeddings:
        state["lm_head.weight"] = state["model.embed_tokens.weight"]
    missing, unexpected = model.load_state_dict(state, strict=False)
    assert not missing
    assert not unexpected
    rotary = type(model.model.rotary_emb)(model.config)  # its buffers are computed, not loaded
    model.model.rotary_emb = rotary
    return model


def transformers_logits(model: Any, tokens: list[int]) -> Tensor:
    """[tokens, vocab] of one whole forward."""
    with torch.inference_mode():
        logits: Tensor = model(torch.tensor([tokens]), use_cache=False).logits[0]
    return logits


class PagedRun:
    """Requests on scattered pages, advanced by any schedule; keeps the logits of every token."""

    def __init__(self, model: DeepseekV3, sequences: list[list[int]], page_size: int, seed: int) -> None:
        self.model, self.sequences, self.page_size = model, sequences, page_size
        needed = [-(-len(tokens) // page_size) for tokens in sequences]
        free = torch.randperm(sum(needed) + 3, generator=Generator().manual_seed(seed)).tolist()
        self.pages = [[free.pop() for _ in range(count)] for count in needed]
        self.cache = model.new_cache(sum(needed) + 3, page_size)
        self.computed = [0] * len(sequences)
        self.logits: list[list[Tensor]] = [[] for _ in sequences]

    def batch(self, counts: list[int], decodes: bool = True) -> tuple[Batch, list[int]]:
        """The next ``counts[i]`` tokens of request i (0: not in this step), and the requests in row order."""
        left = [len(tokens) - done for tokens, done in zip(self.sequences, self.computed, strict=True)]
        take = {i: min(n, left[i]) for i, n in enumerate(counts[: len(left)])}
        order = [i for i, n in take.items() if n == 1 and decodes]
        rows = len(order)
        order += [i for i, n in take.items() if n and i not in order]
        tokens, positions, slots, prefills = [], [], [], []
        for row, i in enumerate(order):
            first, end = self.computed[i], self.computed[i] + take[i]
            if row >= rows:
                prefills.append((len(tokens), end - first, first))
            tokens += self.sequences[i][first:end]
            positions += range(first, end)
            size = self.page_size
            slots += [self.pages[i][at // size] * size + at % size for at in range(first, end)]
        width = max((len(self.pages[i]) for i in order), default=1)
        table = [self.pages[i] + [0] * (width - len(self.pages[i])) for i in order]
        contexts = [self.computed[i] + take[i] for i in order]
        batch = Batch(
            torch.tensor(tokens),
            torch.tensor(positions),
            torch.tensor(slots),
            rows,
            torch.tensor(table, dtype=torch.int32),
            torch.tensor(contexts, dtype=torch.int32),
            tuple(prefills),
            torch.arange(len(tokens)),
        )
        return batch, [i for i in order for _ in range(take[i])]

    def step(self, counts: list[int], decodes: bool = True) -> None:
        batch, owners = self.batch(counts, decodes)
        if not owners:
            return
        for owner, row in zip(owners, self.model.forward(batch, self.cache), strict=True):
            self.logits[owner].append(row)
            self.computed[owner] += 1

    def finish(self, schedule: list[list[int]]) -> list[Tensor]:
        """``schedule`` over and over until all is computed: each request's logits [tokens, vocab]."""
        turn = 0
        while any(done < len(tokens) for done, tokens in zip(self.computed, self.sequences, strict=True)):
            self.step(schedule[turn % len(schedule)], decodes=turn % 3 != 2)
            turn += 1
        return [torch.stack(rows) for rows in self.logits]


def relative_error(output: Tensor, expected: Tensor) -> float:
    """max |a - b| / max |b| over a request's logits."""
    return float((output - expected).abs().max() / expected.abs().max())
