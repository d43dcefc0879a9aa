"""Muon for the matrices, AdamW for the rest. Muon learns a small model in far fewer steps than AdamW."""

from collections import defaultdict

import torch
from torch import Tensor, nn


def orthogonalise(matrices: Tensor, steps: int = 5) -> Tensor:
    """[n, rows, columns] -> nearly orthogonal, with the same singular vectors (Newton-Schulz, quintic)."""
    a, b, c = 3.4445, -4.7750, 2.0315  # coefficients of Jordan et al., Muon, 2024
    x: Tensor = matrices / (matrices.norm(dim=(1, 2), keepdim=True) + 1e-7)
    tall = x.shape[1] > x.shape[2]
    x = x.transpose(1, 2) if tall else x
    for _ in range(steps):
        gram = x @ x.transpose(1, 2)
        x = a * x + (b * gram + c * gram @ gram) @ x
    return x.transpose(1, 2) if tall else x


class Optimiser:
    """Matrices by Muon (all of one shape at once); embeddings, head, router and norms by AdamW."""

    def __init__(self, network: nn.Module, muon_rate: float, adam_rate: float, weight_decay: float) -> None:
        self.muon_rate, self.adam_rate, self.weight_decay = muon_rate, adam_rate, weight_decay
        self.muon: dict[str, nn.Parameter] = {}
        self.adam: dict[str, nn.Parameter] = {}
        for name, weight in network.named_parameters():
            by_adam = weight.ndim < 2 or any(
                part in name for part in ("embed_tokens", "lm_head", "mlp.gate.weight")
            )
            (self.adam if by_adam else self.muon)[name] = weight
        self.state: dict[str, Tensor] = {f"muon.{name}": torch.zeros_like(w) for name, w in self.muon.items()}
        for moment in ("first", "second"):
            self.state |= {f"{moment}.{name}": torch.zeros_like(w) for name, w in self.adam.items()}
        self.state |= {f"count.{name}": torch.zeros(()) for name in self.adam}

    @torch.no_grad()
    def step(self, scale: float) -> None:
        """One update with all rates times ``scale``; clears the gradients."""
        self._muon_step(self.muon_rate * scale)
        self._adam_step(self.adam_rate * scale)

    def _muon_step(self, rate: float) -> None:
        shapes: dict[tuple[int, int], list[tuple[nn.Parameter, Tensor]]] = defaultdict(list)
        for name, weight in self.muon.items():
            if weight.grad is None:
                continue
            momentum = self.state[f"muon.{name}"]
            momentum.lerp_(weight.grad, 0.05)
            update = weight.grad.lerp(momentum, 0.95)  # Nesterov
            rows = weight.shape[-2] // (2 if "gate_up" in name else 1)  # gate and up are two matrices
            shapes[rows, weight.shape[-1]].append((weight, update))
            weight.grad = None
        for (rows, columns), pairs in shapes.items():
            updates = orthogonalise(torch.cat([update.reshape(-1, rows, columns) for _, update in pairs]))
            # root mean square of an AdamW update (Liu et al., Muon is scalable, 2025, section 2.2)
            updates *= 0.2 * max(rows, columns) ** 0.5
            start = 0
            for weight, _ in pairs:
                count = weight.numel() // (rows * columns)
                weight.mul_(1 - rate * self.weight_decay)
                weight.add_(updates[start : start + count].view_as(weight), alpha=-rate)
                start += count

    def _adam_step(self, rate: float) -> None:
        for name, weight in self.adam.items():
            if weight.grad is None:
                continue
            first, second = self.state[f"first.{name}"], self.state[f"second.{name}"]
            count = self.state[f"count.{name}"]
            count += 1
            first.lerp_(weight.grad, 0.1)
            second.lerp_(weight.grad.square(), 0.02)
            corrected = first / (1 - 0.9 ** float(count))
            weight.sub_(rate * corrected / ((second / (1 - 0.98 ** float(count))).sqrt() + 1e-8))
            weight.grad = None
