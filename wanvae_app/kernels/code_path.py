"""CodePath: which code a VAE runs, and why."""

from __future__ import annotations

from typing import NamedTuple

from wanvae_app.kernels.kernel_set import KernelSet

PLAIN_NAME = "plain PyTorch"


class CodePath(NamedTuple):
    """The kernels that a VAE runs, or none of them, and why; `str` gives both as "plain PyTorch: no GPU"."""

    kernels: KernelSet | None  # None: the plain path, through PyTorch alone
    reason: str  # a clause, without a full stop
    frames_at_once: int = 4  # that the largest scales take at a time, at most; fewer save memory

    @property
    def name(self) -> str:
        """The path's name for people, such as "fast (Hopper)"."""
        return PLAIN_NAME if self.kernels is None else self.kernels.value

    def __str__(self) -> str:
        return f"{self.name}: {self.reason}"


PLAIN = CodePath(None, "no other was asked for")
