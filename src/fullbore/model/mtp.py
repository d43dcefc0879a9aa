"""Multi-token prediction (arXiv 2412.19437, section 2.2): a layer that drafts the token after the next.

Its input joins the embedding of token t + 1 with the main model's state at t, so it predicts token t + 2.
Embedding and output head are the main model's; the copies in a checkpoint are not loaded.
"""

import torch
from torch import Tensor

from fullbore.model.batch import Batch
from fullbore.model.deepseek import DeepseekV3, Layer
from fullbore.model.parts import Parts


class MultiTokenPredictor:
    """MTP layer ``index`` (from 0), stored as ``model.layers.{num_hidden_layers + index}``."""

    def __init__(self, model: DeepseekV3, parts: Parts, index: int) -> None:
        self.model = model
        config, number = model.config, model.config.num_hidden_layers + index
        prefix, eps = f"model.layers.{number}.", model.config.rms_norm_eps
        self.embedding_norm = parts.bind("rms_norm", parts.tensor(prefix + "enorm.weight"), eps)
        self.hidden_norm = parts.bind("rms_norm", parts.tensor(prefix + "hnorm.weight"), eps)
        self.join = parts.bind("linear", parts.weight(prefix + "eh_proj.weight"))
        self.layer = Layer(config, parts, number, model.row)
        self.norm = parts.bind("add_rms_norm", parts.tensor(prefix + "shared_head.norm.weight"), eps)

    def new_cache(self, pages: int, page_size: int) -> Tensor:
        """This layer's own cache: [pages, page_size, width of a row]."""
        return self.model.row.empty(pages, page_size, self.model.dtype, self.model.device.place)

    @torch.inference_mode()
    def forward(self, batch: Batch, hidden: Tensor, cache: Tensor) -> tuple[Tensor, Tensor]:
        """batch.tokens: [T] token t + 1 for each t; hidden: [T, hidden] the main model's state at t, after
        its final norm (for a deeper draft: the second result of the layer before).

        -> logits of token t + 2 at ``batch.logits_at`` [R, vocab], and the state [T, hidden].
        """
        embedded = self.embedding_norm(self.model.embed(batch.tokens))
        x = self.join(torch.cat([embedded, self.hidden_norm(hidden)], dim=-1))
        angles = self.model.rotary(batch.positions)
        _, state = self.norm(*self.layer(x, torch.zeros_like(x), batch, angles, cache))
        return self.model.logits(state[batch.logits_at]), state
