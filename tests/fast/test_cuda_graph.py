"""A step that is repeated from a recording against the same step taken launch by launch.

On a GPU the recordings are CUDA graphs. Elsewhere a stand-in records what would have been launched, operations of
PyTorch and kernels in Triton's interpreter, and does it again on the same memory, which is all that a graph does.
"""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode, _disable_current_modes
from torch.utils._pytree import tree_leaves

from wanvae_app.config import PRESETS

pytest.importorskip("triton")  # none for this platform
from support.fast_path import DEVICE, DTYPE, GPU, UNSUPPORTED, fast_vae

from wanvae_app import kernels
from wanvae_app.fast.clip_state import FastClipState
from wanvae_app.fast.cuda_graph import GraphCoder
from wanvae_app.fast.vae import FastVAE
from wanvae_app.kernels.padded_frames import SlotTables
from wanvae_app.parallel.shard import WHOLE

MODULES = [
    importlib.import_module(f"{kernels.__name__}.{m.name}") for m in pkgutil.iter_modules(kernels.__path__)
]
KERNELS = [(module, name) for module in MODULES for name in vars(module) if name.endswith("_kernel")]
pytestmark = pytest.mark.skipif(
    bool(UNSUPPORTED),
    reason="what is not launched as kernels is not recorded",
)


class StandIn(TorchDispatchMode):
    """What happens while this is on can be done once more, on the same memory."""

    def __init__(self) -> None:
        super().__init__()
        self.log: list[Callable[[], Any]] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        out = func(*args, **kwargs)

        def again() -> None:
            for old, new in zip(tree_leaves(out), tree_leaves(func(*args, **kwargs)), strict=True):
                if isinstance(old, Tensor) and old.data_ptr() != new.data_ptr():
                    old.copy_(new)

        self.log.append(again)
        return out

    def replay(self) -> None:
        for again in self.log:
            again()


class Launches:
    """Stands before a kernel and notes its launches."""

    now: StandIn | None = None

    def __init__(self, kernel: Any) -> None:
        self.kernel = kernel

    def __getitem__(self, grid: Any) -> Callable[..., None]:
        def launch(*args: Any, **kwargs: Any) -> None:
            with _disable_current_modes():
                self.kernel[grid](*args, **kwargs)
            if Launches.now is not None:
                Launches.now.log.append(lambda: self.kernel[grid](*args, **kwargs))

        return launch


@pytest.fixture(autouse=True)
def stand_in(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    if GPU:
        yield
        return

    @contextmanager
    def record(graph: StandIn, **_: Any) -> Iterator[None]:
        """Nothing must have been done afterwards: a graph's recording does nothing."""
        held = [x for x in list_of_memory() if x.numel()]
        before = [x.clone() for x in held]
        Launches.now = graph
        try:
            with graph:
                yield
        finally:
            Launches.now = None
            for x, old in zip(held, before, strict=True):
                x.copy_(old)

    def list_of_memory() -> list[Tensor]:
        state = coders[-1].state
        return [pool.data for pool in state.pools] + list(state._past.values())

    coders: list[GraphCoder] = []
    original = GraphCoder.__init__

    def make(self: GraphCoder, *args: Any) -> None:
        original(self, *args)
        self.records = True
        coders.append(self)

    monkeypatch.setattr(GraphCoder, "__init__", make)
    monkeypatch.setattr(torch.cuda, "CUDAGraph", StandIn)
    monkeypatch.setattr(torch.cuda, "graph", record)
    monkeypatch.setattr(torch.cuda, "graph_pool_handle", lambda: None)
    for module, name in KERNELS:
        monkeypatch.setattr(module, name, Launches(getattr(module, name)))
    yield


def a_vae(family: str) -> FastVAE:
    torch.manual_seed(5)
    config = replace(PRESETS[family], base_dim=8, decoder_base_dim=8)
    if not GPU:  # the interpreter takes seconds for what a GPU does in microseconds
        config = replace(config, dim_mult=(1, 2, 2), temporal_downsample=(True, False), num_res_blocks=1)
    vae = fast_vae(config).to(DEVICE, DTYPE)
    vae.channels_last()
    return vae


def clip(vae: FastVAE, kind: str, sizes: list[int], seed: int) -> list[Tensor]:
    """Chunks of so many latent frames."""
    torch.manual_seed(seed)
    config, scale = vae.config, vae.config.spatial_factor
    if kind == "decode":
        chunks = [torch.randn(1, config.z_dim, n, 2, 3) for n in sizes]
    else:
        counts = [config.num_frames(sizes[0]), *(config.temporal_factor * n for n in sizes[1:])]
        chunks = [torch.rand(1, 3, n, 2 * scale, 3 * scale) * 2 - 1 for n in counts]
    return [x.to(DEVICE, DTYPE).contiguous(memory_format=torch.channels_last_3d) for x in chunks]


def coded(vae: FastVAE, kind: str, chunks: list[Tensor], plain: bool = False) -> list[Tensor]:
    with vae.clip(kind, chunks[0].shape) as coder, torch.inference_mode():
        assert isinstance(coder, GraphCoder)
        coder.records &= not plain
        return [coder(x) for x in chunks]


def idle(vae: FastVAE) -> GraphCoder:
    """What the last clip left."""
    assert vae._idle is not None
    return vae._idle


@pytest.mark.parametrize("kind", ["decode", "encode"])
@pytest.mark.parametrize("family", ["wan2.1", "wan2.2"])
def test_recordings_equal_launches(family: str, kind: str) -> None:
    vae = a_vae(family)
    # The first clip records its later steps, the second its first, too; the others find all of them. Some end with a
    # chunk of another size, for which the pools must know again what the device has done.
    clips = [[1, 1, 1, 1], [1, 1, 1], [1, 1], [1, 1, 1, 1, 3], [1, 2, 2, 2, 1]]
    expected = []
    for seed, sizes in enumerate(clips):
        expected.append(coded(vae, kind, clip(vae, kind, sizes, seed), plain=True))
        vae.release()
    found, counts = [], []
    for seed, sizes in enumerate(clips):
        found.append(coded(vae, kind, clip(vae, kind, sizes, seed)))
        counts.append(sum(recording is not None for recording in idle(vae)._recordings.values()))
    assert counts[:3] == [1, 2, 2]
    for ours, theirs in zip(found, expected, strict=True):
        for x, y in zip(ours, theirs, strict=True):
            assert torch.equal(x, y)


def test_a_clip_of_another_size_frees_the_last_one() -> None:
    vae = a_vae("wan2.1")
    coded(vae, "decode", clip(vae, "decode", [1, 1], 0))
    first = vae._idle
    coded(vae, "decode", clip(vae, "decode", [1, 1, 1], 0))
    assert vae._idle is first
    coded(vae, "decode", clip(vae, "decode", [2, 2], 0))
    assert vae._idle is not first
    shape = [1, 16, 2, 2, 3]
    assert vae.keeps_memory_for("decode", shape, WHOLE, 2), "chunks were as long"
    assert not vae.keeps_memory_for("decode", shape, WHOLE, 3), "longer chunks need memory of their own"
    assert vae._idle is None
    coded(vae, "decode", clip(vae, "decode", [2, 2], 0))
    vae.release()
    assert vae._idle is None


def test_what_cannot_be_recorded_is_launched(monkeypatch: pytest.MonkeyPatch) -> None:
    vae = a_vae("wan2.1")
    chunks = clip(vae, "decode", [1, 1, 1, 1], 3)
    expected = coded(vae, "decode", chunks, plain=True)
    original = FastVAE.decode

    def fail(self: FastVAE, x: Tensor, state: FastClipState) -> Tensor:
        out = original(self, x, state)
        if state.pools and not isinstance(state.pools[0].tables, SlotTables):
            raise torch.OutOfMemoryError("no room for a recording")
        return out

    monkeypatch.setattr(FastVAE, "decode", fail)
    for x, y in zip(coded(vae, "decode", chunks), expected, strict=True):
        assert torch.equal(x, y)
    assert vae._idle is None
