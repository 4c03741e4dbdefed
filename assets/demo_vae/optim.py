"""The optimiser: orthogonalised momentum (Muon) for the residual branches, Adam for everything else."""

from __future__ import annotations

from collections import defaultdict

import torch
from torch import Tensor, nn

RATES = (5e-4, 3e-4, 2e-3)  # residual branches, the chain of convolutions with all biases, gammas


def orthogonal(m: Tensor, steps: int = 5) -> Tensor:
    """m [n, rows, columns] with singular values pushed to about 1 (Keller Jordan's Newton-Schulz)."""
    a, b, c = 3.4445, -4.7750, 2.0315
    x = m / (m.norm(dim=(1, 2), keepdim=True) + 1e-9)
    for _ in range(steps):
        gram = x @ x.transpose(1, 2)
        x = a * x + (b * gram + c * gram @ gram) @ x
    return x


class Muon(torch.optim.Optimizer):
    """For convolution weights, seen as [out, in * taps]; equal shapes are updated together."""

    def __init__(self, params: list[nn.Parameter], lr: float, momentum: float = 0.95) -> None:
        super().__init__(params, {"lr": lr, "momentum": momentum})

    @torch.no_grad()
    def step(self, closure: None = None) -> None:
        for group in self.param_groups:
            alike = defaultdict(list)
            for p in group["params"]:
                if p.grad is not None:
                    alike[p.shape].append(p)
            for shape, params in alike.items():
                updates = []
                for p in params:
                    state = self.state[p]
                    m = state.setdefault("momentum", torch.zeros_like(p))
                    m.lerp_(p.grad, 1 - group["momentum"])
                    updates.append(p.grad.lerp(m, group["momentum"]).flatten(1))
                update = orthogonal(torch.stack(updates)) * max(1, shape[0] / updates[0].shape[1]) ** 0.5
                for p, u in zip(params, update, strict=True):
                    p.add_(u.view(shape), alpha=-group["lr"])


def make(vae: nn.Module, blocks: list[nn.Module]) -> list[torch.optim.Optimizer]:
    """[Muon, Adam]; each group's "base" learning rate is what the schedule scales."""
    inside = {
        p for block in blocks for name, p in block.named_parameters() if p.ndim > 1 and "shortcut" not in name
    }
    muon, gammas, rest = [], [], []
    for name, p in vae.named_parameters():
        (muon if p in inside else gammas if name.endswith("gamma") else rest).append(p)
    adam = torch.optim.Adam([{"params": rest}, {"params": gammas}], betas=(0.9, 0.98), eps=1e-10)
    optimizers = [Muon(muon, 0.0), adam]
    for group, base in zip([g for o in optimizers for g in o.param_groups], RATES, strict=True):
        group["base"] = base
    return optimizers
