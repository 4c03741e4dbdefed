"""Which kernels a clip needs, and what each is compiled for: found on tensors without data, with no GPU.

The clip is coded as a GPU would code it, also as one of several ranks, whose rows travel through peer memory or as
messages. No launch starts; each is noted, for a kernel in Triton with what it would be specialized for.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple, cast

import torch
from torch import Tensor
from triton.backends.compiler import GPUTarget
from triton.compiler.compiler import make_backend
from triton.runtime.jit import create_function_from_signature
from triton.tools.tensor_descriptor import TensorDescriptor

from wanvae_app.fast.vae import FastVAE
from wanvae_app.kernels import mailbox
from wanvae_app.kernels.hopper_kernel import HopperKernel
from wanvae_app.kernels.launch import hooked
from wanvae_app.kernels.mailbox import Mailbox
from wanvae_app.kernels.mma_kernel import MmaKernel
from wanvae_app.parallel.messages import Message, Messages
from wanvae_app.parallel.peer_memory import PeerMemory
from wanvae_app.parallel.shard import WHOLE, Shard

META = torch.device("meta")


class Part(NamedTuple):
    """Which rank's slab of the picture is coded, and how its rows and tokens travel."""

    num_ranks: int = 1
    rank: int = 0
    peer_memory: bool = True  # they go through peer memory, not as messages


@dataclass(frozen=True)
class Scene:
    """How a clip is coded: all that decides which kernels it needs, except for the VAE."""

    phase: str  # "decode" or "encode"
    size: tuple[int, int]  # height and width of the picture, in pixels
    chunk: int  # latent frames per chunk, after the first chunk
    part: Part = Part()


class Compilation(NamedTuple):
    """One compilation of a kernel: what `triton.compiler.ASTSource` and `triton.compile` take."""

    kernel: Any  # a JITFunction
    signature: dict[str, Any]
    constants: dict[tuple[int, ...], Any]  # by the argument's path
    attributes: dict[tuple[int, ...], Any]
    options: dict[str, Any]  # as the launcher gives them: no card's own

    @property
    def name(self) -> str:
        """The kernel's name."""
        return cast(str, self.kernel.__name__)

    def parameters(self) -> dict[str, Any]:
        """Return by name what the kernel's source names in capitals: its compile-time constants and options."""
        names = [parameter.name for parameter in self.kernel.params]
        return {names[path[0]]: value for path, value in self.constants.items() if names[path[0]].isupper()}


class CudaCompilation(NamedTuple):
    """One compilation of a kernel in CUDA C++."""

    kernel: HopperKernel | MmaKernel

    @property
    def name(self) -> str:
        """The kernel's name, without what CUDA C++ appends."""
        return self.kernel.name if isinstance(self.kernel, HopperKernel) else "mma_conv"

    def parameters(self) -> dict[str, Any]:
        """Return by name what the kernel's text is made for."""
        found = self.kernel._asdict()
        nested = found.pop("block")._asdict() if "block" in found else dict(found.pop("macros"))
        return {
            name: value for name, value in {**nested, **found}.items() if name not in ("name", "capability")
        }


class Compilations:
    """Notes launches, as a hook of `kernels.launch`: each distinct compilation for a target once, in order."""

    def __init__(self, target: GPUTarget) -> None:
        self.found: dict[str, Compilation | CudaCompilation] = {}
        self._backend = make_backend(target)
        self._binders: dict[Any, Any] = {}

    def __call__(self, kernel: Any, args: Sequence[Any], options: dict[str, Any]) -> dict[str, Any]:
        if isinstance(kernel, HopperKernel | MmaKernel):
            self.found[str(kernel)] = CudaCompilation(kernel)
            return options
        if kernel not in self._binders:
            self._binders[kernel] = create_function_from_signature(
                kernel.signature, kernel.params, self._backend
            )
        named = {name: _stand_in(value) for name, value in options.items()}
        bound, specialization, rest = self._binders[kernel](*map(_stand_in, args), **named)
        key = f"{kernel.__module__}.{kernel.__name__}{specialization}{sorted(rest.items())}"
        if key not in self.found:
            packed = kernel._pack_args(self._backend, named, bound, specialization, rest)
            _, signature, constants, attributes = packed
            self.found[key] = Compilation(kernel, signature, constants, attributes, rest)
        return options


class _Pointer:
    """Takes the place of a tensor without data: memory is aligned to 16 bytes, and views begin somewhere in it."""

    def __init__(self, tensor: Tensor) -> None:
        self.dtype = tensor.dtype
        self._address = int(tensor.storage_offset()) * tensor.element_size()

    def data_ptr(self) -> int:
        return self._address


def _stand_in(value: Any) -> Any:
    if isinstance(value, Tensor):
        return _Pointer(value)
    if isinstance(value, TensorDescriptor):
        return replace(value, base=_Pointer(value.base))  # asserts that it is aligned
    return value


class _Handle:
    """Takes the place of memory that ranks have opened to each other."""

    def get_buffer(self, rank: int, sizes: tuple[int, ...], dtype: torch.dtype) -> Tensor:
        return torch.empty(sizes, dtype=dtype, device=META)


class _NoMemory(PeerMemory):
    """Peer memory without data. It has room for all tokens."""

    def __init__(self, rank: int, size: int) -> None:
        self.rank, self.size, self.device, self.timed = rank, size, META, True
        self._mailboxes = [Mailbox(_Handle(), rank, size, parity) for parity in (0, 1)]
        self._first_frame = torch.empty(1, dtype=torch.int32, device=META)
        self._no_rows = torch.empty(2, 2, dtype=torch.int64, device=META)
        self._abort = torch.empty(1, dtype=torch.int32, device=META)
        self._waited = torch.empty(2, dtype=torch.int64, device=META)
        self._finished = torch.empty(2, dtype=torch.int32, device=META)
        self._token_flags = torch.empty(size, dtype=torch.int64, device=META)
        self._tokens = torch.empty(mailbox.CAPACITY * 64, dtype=torch.int64, device=META), self._token_flags


class _NoMessages:
    """Takes the place of `parallel.messages.Messages`: nothing travels."""

    def exchange(self, sends: Sequence[Message], receives: Sequence[Message]) -> None:
        """Do nothing: what is received has no data."""


def note_launches(vae: FastVAE, scene: Scene, compilations: Compilations) -> None:
    """Code three chunks of a clip as `scene` says, and note their launches. The VAE is on the device "meta"."""
    config, dtype = vae.config, vae.dtype
    factor = config.spatial_factor if scene.phase == "encode" else config.output_factor
    height, width = (length // factor for length in scene.size)  # of the latent
    encodes, shard = scene.phase == "encode", _shard(height, width, scene.part)
    state = vae.new_state(shard)
    channels, scale = (3, factor) if encodes else (config.z_dim, 1)
    with torch.no_grad(), hooked(compilations):
        for num_latents in (1, scene.chunk, scene.chunk):
            num_frames = num_latents
            if encodes and not state.first:
                num_frames *= config.temporal_factor
            whole = torch.empty(
                1, num_frames, height * scale, width * scale, channels, dtype=dtype, device=META
            )
            x = shard.part(whole.movedim(-1, 1), scale).contiguous(memory_format=torch.channels_last_3d)
            if encodes:
                vae.encode(x, state)
            else:
                vae.to_uint8(vae.decode(x, state))


def _shard(height: int, width: int, part: Part) -> Shard:
    """Return a part of a latent picture, whose rows have no data."""
    if part.num_ranks == 1:
        return WHOLE
    peer_memory = _NoMemory(part.rank, part.num_ranks) if part.peer_memory else None
    messages = cast(Messages, _NoMessages())
    shard = Shard.plan(height, width, part.num_ranks, part.rank, messages, peer_memory)
    assert shard is not None, (height, width, part)
    return shard
