"""The optimisers: Muon (orthogonalised momentum) for the residual branches, Adam for all other parameters."""

from __future__ import annotations

from collections import defaultdict

import torch
from torch import Tensor, nn

# Learning rates of the residual branches; the chain of convolutions and all biases; the gammas.
RATES = (5e-4, 3e-4, 2e-3)


def orthogonal(m: Tensor, steps: int = 5) -> Tensor:
    """Approximately the nearest matrices to m [n, rows, columns] whose singular values are 1.

    The quintic Newton-Schulz iteration of Keller Jordan's Muon (kellerjordan.github.io/posts/muon), with its
    coefficients.
    """
    a, b, c = 3.4445, -4.7750, 2.0315
    x = m / (m.norm(dim=(1, 2), keepdim=True) + 1e-9)
    for _ in range(steps):
        gram = x @ x.transpose(1, 2)
        x = a * x + (b * gram + c * gram @ gram) @ x
    return x


class Muon(torch.optim.Optimizer):
    """Muon for convolution weights, flattened to [out, in * taps]. Weights of equal shape are updated together."""

    def __init__(self, params: list[nn.Parameter], lr: float, momentum: float = 0.95) -> None:
        super().__init__(params, {"lr": lr, "momentum": momentum})

    @torch.no_grad()
    def step(self, closure: None = None) -> None:
        for group in self.param_groups:
            by_shape = defaultdict(list)
            for p in group["params"]:
                if p.grad is not None:
                    by_shape[p.shape].append(p)
            for shape, params in by_shape.items():
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
    """Muon and Adam for a VAE with these residual blocks. The schedule scales each group's "base" learning rate."""
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
