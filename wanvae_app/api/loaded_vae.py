"""load_vae, and LoadedVae with its four methods: whole clips and streams, decoded and encoded on all ranks."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Iterator
from dataclasses import asdict
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from wanvae_app.api.clip_request import (
    ClipRequest,
    Output,
    Phase,
    PreparedClip,
    Scaling,
    prepare_latent,
    prepare_video,
)
from wanvae_app.api.frame_parts import Part, prepare_frames
from wanvae_app.api.ranked_clip import RankedClip, on_device
from wanvae_app.api.ranks import Ranks, shared_ranks
from wanvae_app.assets import DEMO_VAE
from wanvae_app.config import WanConfig
from wanvae_app.device import DTYPES
from wanvae_app.fast.agreement import agree
from wanvae_app.jobs.follower import get_ready
from wanvae_app.jobs.vae_loading import open_vaes
from wanvae_app.model.vae import WanVAE

log = logging.getLogger(__name__)


def load_vae(
    source: str | Path = DEMO_VAE,
    dtype: str | torch.dtype = "auto",
    device: str | torch.device = "auto",
) -> LoadedVae:
    """Load a Wan VAE from a file, a diffusers folder or a Hugging Face id; without a source, the demo VAE.

    `dtype` is bf16, fp16, fp32, fp64, a `torch.dtype`, or auto: bf16 where the device is made for it, else fp16 on GPUs
    and fp32 on CPUs. `device` is cpu, cuda, a GPU such as cuda:1, or auto: a GPU if there is one. Under torchrun all
    ranks call this, each takes its own GPU, and they agree on dtype and code path. In fp32 on a GPU, TF32 is turned off
    for the program, so that fp32 means fp32.

    Raises ValueError, with one sentence, for a source that holds no Wan VAE, for an unknown dtype, and for a device
    that is not there.

    >>> import wanvae_app
    >>> vae = wanvae_app.load_vae(dtype="fp32", device="cpu")
    >>> vae
    LoadedVae('demo_vae (Wan 2.1 VAE, width 16)', fp32 on cpu, 1 rank)
    """
    ranks = shared_ranks(device)
    group = ranks.group
    with on_device(group.device):
        agreed = agree(group, _dtype_name(dtype))
        for warning in agreed.warnings if group.rank == 0 else ():
            log.warning("%s", warning)
        if group.device.type == "cuda" and agreed.dtype.itemsize >= 4:
            torch.backends.cudnn.allow_tf32 = torch.backends.cuda.matmul.allow_tf32 = False
        vae = open_vaes(group, {str(source): str(source)}, agreed.dtype, agreed.path).first
        for note in vae.notes if group.rank == 0 else ():
            log.warning("%s", note)
        if group.size > 1:
            get_ready(group, vae)
    return LoadedVae(vae, ranks)


class LoadedVae:
    """A Wan VAE that codes clips on all ranks of this program. `load_vae` makes it.

    Latents have the shape [1 C T H W], with C = `config.z_dim`. Frames are uint8 [T H W 3], or floats in [-1, 1] of
    shape [1 3 T H W]; those of a VAE with alpha have four channels. T latent frames hold 4 T - 3 frames, and a latent
    pixel is 8 pixels wide and high in Wan 2.1, 16 in 2.2. A latent is "raw", as the encoder makes it and ComfyUI keeps
    it, or "normalised" by the statistics in `config`, as diffusers' pipelines hand it out. There is no default: a
    latent of the other kind decodes to wrong colours.

    Results lie on `device`. Under torchrun all ranks make the same calls, in the same order. Rank 0 has the input and
    gets the result. What other ranks give is not read, and may be None; they get a result without frames, and their
    streams yield nothing.

    All methods raise ValueError, with one sentence, for what cannot be coded, MemoryError for a clip that does not fit
    into memory, and RuntimeError if a rank fails or is gone; each on all ranks alike.
    """

    def __init__(self, vae: WanVAE, ranks: Ranks) -> None:
        self.model = vae
        self.group = ranks.group
        self._ranks = ranks

    def __repr__(self) -> str:
        name = next(name for name, dtype in DTYPES.items() if dtype == self.dtype)
        ranks = f"{self.group.size} rank{'s' * (self.group.size != 1)}"
        return f"LoadedVae({self.model.name!r}, {name} on {self.device}, {ranks})"

    @property
    def config(self) -> WanConfig:
        """Widths, scales, and the statistics of latents."""
        return self.model.config

    @property
    def dtype(self) -> torch.dtype:
        """The dtype of weights, and of what float results have."""
        return self.model.dtype

    @property
    def device(self) -> torch.device:
        """This rank's device."""
        return self.group.device

    @property
    def rank(self) -> int:
        """Which of the ranks this is; 0 gets the results."""
        return self.group.rank

    def decode(
        self, latent: Tensor | None, *, scaling: Scaling, output: Output = "uint8", chunk: int | None = None
    ) -> Tensor:
        """Decode a latent [1 C T H W] or [C T H W] to all its frames: uint8 [4 T - 3, 8 H, 8 W, 3] for Wan 2.1.

        With output="float" they are [1, 3, 4 T - 3, 8 H, 8 W] in [-1, 1], of `dtype`. `chunk` is the number of latent
        frames that are decoded at a time; any gives the same frames.

        >>> import torch, wanvae_app
        >>> vae = wanvae_app.load_vae(dtype="fp32", device="cpu")
        >>> frames = vae.decode(torch.zeros(1, 16, 2, 4, 6), scaling="normalised")
        >>> frames.shape, frames.dtype
        (torch.Size([5, 32, 48, 3]), torch.uint8)
        """
        stream = self._start_decoding(latent, scaling, output, chunk)
        if output == "uint8":
            return self._join(stream, 0, (0, 0, 0, self.config.out_channels), torch.uint8)
        return self._join(stream, 2, (1, self.config.out_channels, 0, 0, 0), self.dtype)

    def decode_stream(
        self, latent: Tensor | None, *, scaling: Scaling, output: Output = "uint8", chunk: int | None = None
    ) -> Iterator[Tensor]:
        """Decode as `decode` does; yield the frames of each chunk as soon as they are there, the first one alone.

        Close the stream, or leave its loop, to stop decoding. On several ranks one stream must end before the next
        call.

        >>> import torch, wanvae_app
        >>> vae = wanvae_app.load_vae(dtype="fp32", device="cpu")
        >>> for frames in vae.decode_stream(torch.zeros(1, 16, 3, 4, 6), scaling="normalised", chunk=1):
        ...     print(len(frames), "frames")
        1 frames
        4 frames
        4 frames
        """
        return self._start_decoding(latent, scaling, output, chunk).results

    def encode(
        self, video: Tensor | np.ndarray | None, *, scaling: Scaling, chunk: int | None = None
    ) -> Tensor:
        """Encode a video to its latent [1 C T H W], the mean of the encoder's distribution, in `dtype` or float32.

        The video is uint8 [N H W 3], or floats in [-1, 1] of shape [1 3 N H W] or [3 N H W]; not in [0, 1]. N is
        4 k + 1, and the sides are multiples of 8 for Wan 2.1, of 16 for 2.2. `scaling` says which kind of latent is
        wanted.

        >>> import torch, wanvae_app
        >>> vae = wanvae_app.load_vae(dtype="fp32", device="cpu")
        >>> vae.encode(torch.zeros(5, 32, 48, 3, dtype=torch.uint8), scaling="normalised").shape
        torch.Size([1, 16, 2, 4, 6])
        """
        stream = self._start_encoding(video, scaling, chunk)
        dtype = torch.promote_types(self.dtype, torch.float32)
        return self._join(stream, 2, (1, self.config.z_dim, 0, 0, 0), dtype)

    def encode_stream(
        self,
        video: Tensor | np.ndarray | Iterable[Part] | None,
        *,
        scaling: Scaling,
        chunk: int | None = None,
    ) -> Iterator[Tensor]:
        """Encode as `encode` does, and yield the latent frames of each chunk as soon as they are there.

        Takes frames as they come, too: an iterator of frames, uint8 [H W 3] or floats [3 H W], or of several at a time,
        shaped like a video. No more of them than a chunk needs is taken ahead. Frames at the end that do not fill a
        latent frame are left out, with a warning. An exception in the iterator ends the stream: with one rank it is
        raised as it is, with several as a RuntimeError on all of them.

        >>> import torch, wanvae_app
        >>> vae = wanvae_app.load_vae(dtype="fp32", device="cpu")
        >>> video = torch.zeros(1, 3, 9, 32, 48)
        >>> [latent.shape[2] for latent in vae.encode_stream(video, scaling="raw", chunk=2)]
        [1, 2]
        >>> frames = (torch.zeros(32, 48, 3, dtype=torch.uint8) for _ in range(9))
        >>> [latent.shape[2] for latent in vae.encode_stream(frames, scaling="raw", chunk=1)]
        [1, 1, 1]
        """
        if isinstance(video, Iterable) and not isinstance(video, (Tensor, np.ndarray, str, bytes)):
            parts, size = video, self.model.default_chunk if chunk is None else chunk
            prepared = self._start("encode", lambda: prepare_frames(parts, scaling, size, self.config))
            return prepared.results
        return self._start_encoding(video, scaling, chunk).results

    def _start_decoding(
        self, latent: Tensor | None, scaling: Scaling, output: Output, chunk: int | None
    ) -> _Stream:
        size = self.model.default_chunk if chunk is None else chunk
        return self._start("decode", lambda: prepare_latent(latent, scaling, output, size, self.config))

    def _start_encoding(
        self, video: Tensor | np.ndarray | None, scaling: Scaling, chunk: int | None
    ) -> _Stream:
        size = self.model.default_chunk if chunk is None else chunk
        return self._start("encode", lambda: prepare_video(video, scaling, size, self.config))

    def _start(self, phase: Phase, prepare: Callable[[], PreparedClip]) -> _Stream:
        """Check the input on rank 0; return what codes it, which the other ranks join when it is iterated over."""
        if self.group.rank > 0:
            return _Stream(0, self._follow(phase))
        self._ranks.check_idle()
        try:
            prepared = prepare()
        except ValueError as error:
            self.group.post({"refusal": str(error)})
            self.group.agree([0.0])
            raise
        length = prepared.request.num_latents or 0
        if phase == "decode":
            length = self.config.num_frames(length)
        return _Stream(length, self._lead(prepared))

    def _lead(self, prepared: PreparedClip) -> Iterator[Tensor]:
        """Rank 0: tell the other ranks what is coded, and yield its results."""
        self._ranks.check_idle()
        self.group.post({"vae": self.model.name, **asdict(prepared.request)})
        yield from self._run(prepared.request, prepared.chunks, why_not="")

    def _follow(self, phase: Phase) -> Iterator[Tensor]:
        """The other ranks: take part in what rank 0 codes; yield nothing. Raises ValueError for what it refused."""
        command = self.group.next_command()
        if "refusal" in command:
            self.group.agree([0.0])
            raise ValueError(command["refusal"])
        name = command.pop("vae")
        request = ClipRequest(**command)
        is_same = (request.phase, name) == (phase, self.model.name)
        why_not = "" if is_same else f"rank {self.group.rank} {phase}s with {self.model.name}"
        yield from self._run(request, None, why_not)

    def _run(self, request: ClipRequest, chunks: Iterator[Tensor] | None, why_not: str) -> Iterator[Tensor]:
        """Code on all ranks, unless one says why it cannot."""
        if why := next(filter(None, self.group.share(why_not)), ""):
            raise ValueError(
                f"The ranks make different calls: rank 0 {request.phase}s, and {why}; let all make the same."
            )
        self._ranks.is_coding = True
        try:
            yield from RankedClip(self.group, self.model, request, chunks).run()
        finally:
            self._ranks.is_coding = False

    def _join(self, stream: _Stream, dim: int, empty: tuple[int, ...], dtype: torch.dtype) -> Tensor:
        """Return all results of a stream in one tensor, along `dim`, which is time; of shape `empty` without any."""
        whole, start = torch.empty(empty, dtype=dtype, device=self.device), 0
        for part in stream.results:
            if not start:
                whole = part.new_empty([*part.shape[:dim], stream.length, *part.shape[dim + 1 :]])
            whole.narrow(dim, start, part.shape[dim]).copy_(part)
            start += part.shape[dim]
        return whole


class _Stream(NamedTuple):
    """Results to come."""

    length: int  # frames or latent frames of all results; 0 on ranks other than 0, and where it is not known
    results: Iterator[Tensor]


def _dtype_name(dtype: str | torch.dtype) -> str:
    """Return the dtype's name as the command lines have it. Raises ValueError for a torch.dtype that has none."""
    if isinstance(dtype, str):
        return dtype
    for name, known in DTYPES.items():
        if known == dtype:
            return name
    raise ValueError(f"A VAE cannot be in {dtype}; choose auto, {', '.join(DTYPES)}.")
