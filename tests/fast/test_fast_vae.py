"""Whole networks on the fast path against the plain path in float32, whole and sharded."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from support.distance import distance
from support.grouped import run_group
from torch import Tensor

from wanvae_app.codec import decode_chunks, encode_chunks
from wanvae_app.config import PRESETS, WanConfig
from wanvae_app.model.vae import WanVAE
from wanvae_app.parallel.process_group import Group
from wanvae_app.parallel.shard import Shard

pytest.importorskip("triton")  # none for this platform
from support.fast_path import DEVICE, DTYPE, GPU, UNSUPPORTED, fast_vae

from wanvae_app.fast.vae import FastVAE
from wanvae_app.kernels.code_path import PLAIN

pytestmark = pytest.mark.skipif(bool(UNSUPPORTED), reason=UNSUPPORTED)


def config_of(family: str) -> WanConfig:
    width = (96 if family == "wan2.1" else 160) if GPU else 8
    return replace(PRESETS[family], base_dim=width, decoder_base_dim=width)


def both(config: WanConfig) -> tuple[WanVAE, FastVAE]:
    """A plain VAE in float32 on the CPU, and one of the same weights on the fast path."""
    torch.manual_seed(5)
    plain, fast = WanVAE(config).requires_grad_(False), fast_vae(config)
    fast.load_state_dict(plain.state_dict())
    fast.to(DEVICE, DTYPE).channels_last()
    return plain, fast


def there(vae: WanVAE, sizes: list[int], shape: tuple[int, int], shard: Shard | None = None) -> list[Tensor]:
    """A clip of three latents decoded in chunks of these sizes, one of nine frames encoded: float64 on the CPU."""
    generator = torch.Generator().manual_seed(6)
    config = vae.config
    scale, counts = config.spatial_factor, [config.num_frames(sizes[0]), *(4 * n for n in sizes[1:])]
    z = torch.randn(1, config.z_dim, 3, *shape, generator=generator)
    x = torch.rand(1, 3, 9, shape[0] * scale, shape[1] * scale, generator=generator) * 2 - 1
    if shard is not None:
        z, x = shard.part(z), shard.part(x, scale)
    args = () if shard is None else (shard,)
    frames = torch.cat(list(decode_chunks(vae, z.split(sizes, 2), *args)), 2)
    latents = torch.cat(list(encode_chunks(vae, x.split(counts, 2), *args)), 2)
    return [frames.double().cpu(), latents.double().cpu()]


@pytest.mark.parametrize("family", ["wan2.1", "wan2.2"])
def test_whole_networks(family: str) -> None:
    """Against float32 on the plain path: no further away than the plain path in the same precision."""
    plain, vae = both(config_of(family))
    exact = there(plain, [3], (2, 3))
    allowed = 0.02 if GPU else 5e-6
    for sizes in ([1, 1, 1], [2, 1], [1, 2], [3]) if GPU else ([2, 1],):
        for found, expected in zip(there(vae, sizes, (2, 3)), exact, strict=True):
            assert distance(found, expected) < allowed
            for index in range(expected.shape[2]):  # no frame and no border is worse than the rest
                assert distance(found[:, :, index], expected[:, :, index]) < 1.5 * allowed
            for edge in (0, -1):
                assert distance(found[..., edge, :], expected[..., edge, :]) < 1.5 * allowed


@pytest.mark.parametrize("temporal", [(True,), (True, False), (False, True)])
def test_where_frames_are_halved_first(temporal: tuple[bool, ...]) -> None:
    """A first chunk of several latents, through encoders that do not all begin with a picture's size."""
    few = replace(
        PRESETS["wan2.1"], base_dim=8, decoder_base_dim=8, num_res_blocks=1,
        dim_mult=(1,) * len(temporal) + (2,), temporal_downsample=temporal,
    )  # fmt: skip
    plain, fast = both(few)
    x = torch.rand(1, 3, 9, 8, 12) * 2 - 1
    (expected,) = encode_chunks(plain, [x])
    (found,) = encode_chunks(fast, [x])
    assert distance(found.cpu(), expected) < (0.02 if GPU else 5e-6)


def sharded(group: Group, shape: tuple[int, int]) -> tuple[int, list[Tensor]]:
    vae = both(config_of("wan2.1"))[1].to(group.device)
    shard = Shard.plan(*shape, group.size, group.rank, group.data, group.peer_memory)
    assert shard is not None
    return shard.dim, there(vae, [2, 1], shape, shard)


@pytest.mark.skipif(GPU and torch.cuda.device_count() < 2, reason="one GPU here")
@pytest.mark.parametrize("shape", [(3, 2), (1, 3)])
def test_neighbours_rows(shape: tuple[int, int]) -> None:
    parts = run_group(2, sharded, shape, timeout=300, device=DEVICE.type)
    plain, _ = both(config_of("wan2.1"))
    for index, expected in enumerate(there(plain, [1, 1, 1], shape)):
        whole = torch.cat([results[index] for _, results in parts], parts[0][0])
        assert distance(whole, expected) < (0.02 if GPU else 5e-6)


def test_the_state_dict_is_the_plain_one() -> None:
    plain, fast = WanVAE(config_of("wan2.2")), FastVAE(config_of("wan2.2"))
    assert {name: x.shape for name, x in plain.state_dict().items()} == {
        name: x.shape for name, x in fast.state_dict().items()
    }


def test_a_batch_takes_the_plain_path() -> None:
    plain, fast = both(config_of("wan2.1"))
    z = torch.randn(2, 16, 2, 3, 4)
    expected = plain.decode(z, plain.new_state())
    found = fast.decode(z.to(DEVICE, DTYPE), fast.new_state())
    assert distance(found.cpu(), expected) < (0.03 if GPU else 5e-6)


@pytest.mark.parametrize("family", ["wan2.1", "wan2.2"])
def test_a_clip_can_take_a_path_that_needs_less_memory(family: str, monkeypatch: pytest.MonkeyPatch) -> None:
    plain, fast = both(config_of(family))
    z = torch.randn(1, plain.config.z_dim, 3, 3, 4)

    def decoded(vae: WanVAE, device: torch.device, dtype: torch.dtype) -> torch.Tensor:
        x = z.to(device, dtype)
        with vae.clip("decode", x.shape) as code:
            return torch.cat([code(x[:, :, :1]), code(x[:, :, 1:])], 2)

    expected = decoded(plain.to(DEVICE, DTYPE), DEVICE, DTYPE)
    fast.take_path(PLAIN)
    with monkeypatch.context() as patch:
        patch.setattr(FastVAE, "new_state", None)  # no clip on the fast path begins without
        assert distance(decoded(fast, DEVICE, DTYPE), expected) < (0.01 if GPU else 2e-6)
    for frames_at_once in (2, 4):
        fast.take_path(fast.path._replace(frames_at_once=frames_at_once))
        assert fast.new_state().frames_at_once == frames_at_once
        assert distance(decoded(fast, DEVICE, DTYPE), expected) < (0.03 if GPU else 5e-6)
