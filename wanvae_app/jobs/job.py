"""Job: what is to be done, as every rank knows it, and the steps in which all ranks do it."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from enum import StrEnum
from typing import Any

from wanvae_app.codec import chunk_sizes
from wanvae_app.jobs.latent_shape import LatentShape


class JobKind(StrEnum):
    """DECODE turns a latent into frames, ENCODE frames into a latent. ROUNDTRIP does both: frames, latent, frames."""

    DECODE = "decode"
    ENCODE = "encode"
    ROUNDTRIP = "roundtrip"


class Phase(StrEnum):
    """One direction through the VAE."""

    ENCODE = "encode"
    DECODE = "decode"

    @property
    def gerund(self) -> str:
        """The phase as a sentence says it: "encoding" or "decoding"."""
        return "encoding" if self == Phase.ENCODE else "decoding"


@dataclass(frozen=True)
class Step:
    """One chunk of one phase."""

    phase: Phase
    chunk: int  # index of the chunk, from 0
    start: int  # first latent frame
    stop: int  # latent frame after the last

    @property
    def description(self) -> str:
        """The step as a sentence says it, such as "decoding chunk 3"; chunks count from 1 there."""
        return f"{self.phase.gerund} chunk {self.chunk + 1}"


@dataclass(frozen=True)
class Job:
    """What every rank must know of a job. Plain data, because it travels to the other ranks as JSON."""

    id: str
    kind: JobKind
    shape: LatentShape  # of the latent that is decoded
    chunk: int  # latent frames per chunk, except for the first chunk: it has one
    parallel: bool  # False: rank 0 codes the whole picture, and the other ranks only agree with it
    vae: str = ""  # name of the VAE in every rank's VaeCache

    @classmethod
    def from_json(cls, values: dict[str, Any]) -> Job:
        """Return the job that `to_json` wrote. Raises KeyError, TypeError or ValueError for other values."""
        kind, shape = JobKind(values["kind"]), LatentShape(*values["shape"])
        return cls(**{**values, "kind": kind, "shape": shape})

    def to_json(self) -> dict[str, Any]:
        """Return the job as values that JSON can hold."""
        return asdict(self)

    @property
    def phases(self) -> tuple[Phase, ...]:
        """The phases of this job, in their order."""
        if self.kind == JobKind.ROUNDTRIP:
            return Phase.ENCODE, Phase.DECODE
        return (Phase.ENCODE,) if self.kind == JobKind.ENCODE else (Phase.DECODE,)

    def steps(self, interleaved: bool = False) -> list[Step]:
        """Return all steps in the order in which every rank takes them.

        A roundtrip encodes all chunks before it decodes the first. If `interleaved`, it decodes each chunk as soon as
        that is encoded.
        """
        steps = []
        for phase in self.phases:
            start = 0
            for chunk, size in enumerate(chunk_sizes(self.shape.num_latents, self.chunk)):
                steps.append(Step(phase, chunk, start, start + size))
                start += size
        return sorted(steps, key=lambda step: step.chunk) if interleaved else steps
