"""The network to train: transformers' DeepSeek-V3 with packed attention, sorted experts and an MTP layer.

The sequences of a batch lie one after the other in one row of tokens, so no linear layer works on padding;
only attention is done per group of sequences of like length.
"""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional
from transformers import DeepseekV3Config, DeepseekV3ForCausalLM
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS
from transformers.models.deepseek_v3.modeling_deepseek_v3 import (
    DeepseekV3DecoderLayer,
    DeepseekV3MoE,
    DeepseekV3RMSNorm,
)

IGNORE = -100  # a target that has no loss


@dataclass(frozen=True)
class PackedBatch:
    """``T`` tokens of several sequences. A group holds sequences of like length, padded to its longest.

    tokens, positions, targets (next token or IGNORE), later_targets (the one after): [T] int64;
    groups: [sequences, longest] int64 indices into T each; back: [T] int64, where a token stands in the
    groups' concatenation.
    """

    tokens: Tensor
    positions: Tensor
    targets: Tensor
    later_targets: Tensor
    groups: tuple[Tensor, ...]
    back: Tensor


def packed_attention(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    mask: Tensor | None,
    scaling: float,
    **kwargs: Any,
) -> tuple[Tensor, None]:
    """Causal attention inside each sequence.

    query, key, value: [1, heads, T, width] -> [1, T, heads, width of value].
    """
    batch: PackedBatch = kwargs["packed"]
    heads = query.shape[1]
    done = []
    for group in batch.groups:
        rows, longest = group.shape
        q, k, v = (
            x[0].index_select(1, group.flatten()).view(heads, rows, longest, -1) for x in (query, key, value)
        )
        out = functional.scaled_dot_product_attention(q, k, v, is_causal=True, scale=scaling)
        done.append(out.reshape(heads, rows * longest, -1))
    return torch.cat(done, 1).index_select(1, batch.back).transpose(0, 1).unsqueeze(0), None


ALL_ATTENTION_FUNCTIONS.register("packed", packed_attention)


class SortedExperts(nn.Module):
    """The routed experts, tokens sorted by expert so that each expert multiplies one block of rows.

    gate_up_proj: [experts, 2 * width, hidden]; down_proj: [experts, hidden, width]. ``counts`` holds
    the load of the last forward.
    """

    def __init__(self, config: DeepseekV3Config) -> None:
        super().__init__()
        self.experts = config.n_routed_experts
        width, hidden = config.moe_intermediate_size, config.hidden_size
        self.gate_up_proj = nn.Parameter(torch.empty(self.experts, 2 * width, hidden))
        self.down_proj = nn.Parameter(torch.empty(self.experts, hidden, width))
        self.counts = torch.zeros(self.experts)

    def forward(self, hidden: Tensor, chosen: Tensor, weights: Tensor) -> Tensor:
        """hidden: [T, hidden], chosen and weights: [T, k] -> [T, hidden]."""
        tokens, k = chosen.shape
        order = chosen.flatten().argsort(stable=True)  # [T * k]
        loads = torch.bincount(chosen.flatten(), minlength=self.experts)
        self.counts = loads.float()
        done = []
        blocks = hidden.index_select(0, order // k).split_with_sizes(loads.tolist())
        for rows, gate_up, down in zip(
            blocks, self.gate_up_proj.unbind(), self.down_proj.unbind(), strict=True
        ):
            gate, up = functional.linear(rows, gate_up).chunk(2, -1)
            done.append(functional.linear(functional.silu(gate) * up, down))
        back = torch.empty_like(order)
        back[order] = torch.arange(tokens * k, device=order.device)
        result = torch.cat(done).index_select(0, back).view(tokens, k, -1)
        return torch.bmm(weights.unsqueeze(1), result).squeeze(1)


class MtpLayer(nn.Module):
    """One more decoder layer that guesses the token after the next (DeepSeek-V3 report, section 2.2)."""

    def __init__(self, config: DeepseekV3Config) -> None:
        super().__init__()
        self.enorm = DeepseekV3RMSNorm(config.hidden_size, config.rms_norm_eps)
        self.hnorm = DeepseekV3RMSNorm(config.hidden_size, config.rms_norm_eps)
        self.eh_proj = nn.Linear(2 * config.hidden_size, config.hidden_size, bias=False)
        self.layer = DeepseekV3DecoderLayer(config, config.num_hidden_layers)
        self.norm = DeepseekV3RMSNorm(config.hidden_size, config.rms_norm_eps)  # shared_head.norm

    def forward(self, next_embedded: Tensor, hidden: Tensor, **kwargs: Any) -> Tensor:
        """next_embedded: embeddings of the next tokens, hidden: after the final norm; both [1, T, hidden]."""
        joined = torch.cat([self.enorm(next_embedded), self.hnorm(hidden)], -1)
        state: Tensor = self.norm(self.layer(self.eh_proj(joined), **kwargs))
        return state


class DemoNetwork(nn.Module):
    """The main model and its MTP layer, with the losses of both."""

    def __init__(self, config: DeepseekV3Config, seed: int) -> None:
        super().__init__()
        torch.manual_seed(seed)
        config._attn_implementation = "packed"
        self.main = DeepseekV3ForCausalLM(config)
        self.mtp = MtpLayer(config)
        for moe in self.moes():
            moe.experts = SortedExperts(config)
        self._start_weights()

    def moes(self) -> list[DeepseekV3MoE]:
        """All mixtures of experts, the MTP layer's last."""
        return [module for module in self.modules() if isinstance(module, DeepseekV3MoE)]

    @torch.no_grad()
    def _start_weights(self) -> None:
        for name, weight in self.named_parameters():
            if weight.ndim == 1:
                weight.fill_(1.0)
            elif "embed_tokens" in name:
                weight.normal_(0, 1.0 / weight.shape[1] ** 0.5)
            else:
                last = (
                    "o_proj" in name or "down_proj" in name
                )  # what adds to the residual stream begins small
                weight.normal_(0, (0.1 if last else 0.5) / weight.shape[-1] ** 0.5)

    def losses(self, batch: PackedBatch, with_mtp: bool) -> tuple[Tensor, Tensor | None]:
        """Mean cross entropy of the next token and, if asked, of the MTP layer's guess at the one after."""
        model = self.main.model
        embedded = model.embed_tokens(batch.tokens).unsqueeze(0)  # [1, T, hidden]
        rotary = model.rotary_emb(embedded, batch.positions.unsqueeze(0))
        place = {"position_embeddings": rotary, "attention_mask": None, "packed": batch}
        hidden = embedded
        for layer in model.layers:
            hidden = layer(hidden, **place)
        hidden = model.norm(hidden)
        loss = self._cross_entropy(hidden[0], batch.targets)
        if not with_mtp:
            return loss, None
        # detached: the draft head must not disturb the main model
        later = embedded.detach()[0].roll(-1, 0).unsqueeze(0)
        guess = self.mtp(later, hidden.detach(), **place)
        return loss, self._cross_entropy(guess[0], batch.later_targets, self.main.lm_head.weight.detach())

    def _cross_entropy(self, hidden: Tensor, targets: Tensor, head: Tensor | None = None) -> Tensor:
        wanted = (targets != IGNORE).nonzero()[:, 0]
        logits = functional.linear(
            hidden.index_select(0, wanted), self.main.lm_head.weight if head is None else head
        )
        return functional.cross_entropy(logits, targets[wanted])

    @torch.no_grad()
    def balance(self, speed: float) -> float:
        """Move each expert's correction bias by ``speed`` towards even load (noaux_tc; report, 2.1.2).

        Returns the greatest load of an expert over the mean, worst layer.
        """
        worst = 1.0
        for moe in self.moes():
            counts = moe.experts.counts
            if counts.sum() > 0:
                moe.gate.e_score_correction_bias += speed * torch.sign(counts.mean() - counts)
                worst = max(worst, float(counts.max() / counts.mean()))
                moe.experts.counts = torch.zeros_like(counts)
        return worst
