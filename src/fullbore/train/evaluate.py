"""Exact answers on held-out questions, greedily, from a stored checkpoint (dequantised to float32)."""

from itertools import islice

import torch
from tokenizers import Tokenizer
from torch import Tensor
from transformers import DynamicCache

from fullbore.train.demo_data import Question, questions
from fullbore.train.exact import count_exact
from fullbore.train.network import DemoNetwork
from fullbore.train.tokens import EOS_ID, PAD_ID, prompt_text


@torch.no_grad()
def replies(
    network: DemoNetwork, tokenizer: Tokenizer, asked: list[Question], max_tokens: int = 200, rows: int = 128
) -> list[str]:
    """The greedy reply to each question, thought included; ``rows`` at a time, none depending on another."""
    prompts = [tokenizer.encode(prompt_text(q.messages), add_special_tokens=False).ids for q in asked]
    order = sorted(range(len(asked)), key=lambda number: len(prompts[number]))
    done = [""] * len(asked)
    network.main.set_attn_implementation("sdpa")
    for start in range(0, len(order), rows):
        part = order[start : start + rows]
        for number, ids in zip(part, _greedy(network, [prompts[n] for n in part], max_tokens), strict=True):
            done[number] = tokenizer.decode(ids)
    network.main.set_attn_implementation("packed")
    return done


def _greedy(network: DemoNetwork, prompts: list[list[int]], max_tokens: int) -> list[list[int]]:
    """What follows each prompt, up to its end token or ``max_tokens``; prompts are padded on the left."""
    longest = max(map(len, prompts))
    inputs = torch.tensor([[PAD_ID] * (longest - len(ids)) + ids for ids in prompts])  # [rows, longest]
    mask = torch.tensor([[0] * (longest - len(ids)) + [1] * len(ids) for ids in prompts])
    positions = (mask.cumsum(1) - 1).clamp_min(0)
    cache = DynamicCache(config=network.main.config)
    written: list[Tensor] = []  # each [rows, 1]
    ended = torch.zeros(len(prompts), dtype=torch.bool)
    while len(written) < max_tokens and not bool(ended.all()):
        logits = network.main(
            inputs,
            attention_mask=mask,
            position_ids=positions,
            past_key_values=cache,
            use_cache=True,
            logits_to_keep=1,
        ).logits[:, -1]
        inputs = logits.argmax(-1, keepdim=True)
        written.append(inputs)
        ended |= inputs[:, 0] == EOS_ID
        mask = torch.cat([mask, torch.ones_like(inputs)], 1)
        positions = positions[:, -1:] + 1
    texts = torch.cat(written, 1).tolist()
    return [ids[: ids.index(EOS_ID)] if EOS_ID in ids else ids for ids in texts]


def accuracy(
    network: DemoNetwork, tokenizer: Tokenizer, count: int, seed: int, show: int = 0
) -> dict[str, tuple[int, int]]:
    """kind -> (exact, asked) over ``count`` held-out questions; prints the first ``show`` that went wrong."""
    asked = list(islice(questions("heldout", seed), count))
    return count_exact(asked, replies(network, tokenizer, asked), show)
