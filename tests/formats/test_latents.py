"""Latents come back from files of every format, and raw ones are told from normalised ones."""

from __future__ import annotations

import argparse
import collections
import datetime
import json
import types
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from support.torch_files import save_legacy
from torch import Tensor

from wanvae_app.config import PRESETS
from wanvae_app.formats.latents import (
    guess_scaling,
    read_latent,
    stored_scaling,
    to_normalised,
    to_raw,
    write_latent,
)
from wanvae_app.page.upload import choose_scaling, describe_upload

WAN = PRESETS["wan2.1"]
SHAPE = (1, 16, 3, 4, 5)


def latent(shape: tuple[int, ...] = SHAPE) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(3))


def comfy(z: Tensor, path: Path) -> None:
    """As ComfyUI's SaveLatent node writes it."""
    metadata = {"prompt": json.dumps({"3": {"class_type": "SaveLatent"}})}
    save_file({"latent_tensor": z.contiguous(), "latent_format_version_0": torch.tensor([])}, path, metadata)


def large_comfy(z: Tensor, path: Path) -> None:
    """As ComfyUI writes it from a workflow that holds pictures, 6 MB."""
    metadata = {"prompt": "{}", "workflow": json.dumps({"picture": "A" * 6_000_000})}
    save_file({"latent_tensor": z.contiguous(), "latent_format_version_0": torch.tensor([])}, path, metadata)


# What people save beside a tensor, and what is no code.
HARMLESS = {
    "path": Path("/a/b"),
    "step": np.float64(3),
    "seed": np.int64(7),
    "flag": np.bool_(True),
    "args": argparse.Namespace(lr=1e-3, out=Path("x")),
    "when": datetime.datetime(2026, 1, 2, tzinfo=datetime.UTC),
    "names": {"a", "b"},
    "frozen": frozenset([1]),
    "plain": types.SimpleNamespace(a=1),
}


WRITERS: dict[str, Callable[[Tensor, Path], None]] = {
    "plain.safetensors": lambda z, path: save_file({"anything": z}, path),
    "with others.safetensors": lambda z, path: save_file(
        {"noise": z + 1, "latent": z, "sigmas": torch.ones(9)}, path
    ),
    "comfy.latent": comfy,
    "large workflow.latent": large_comfy,
    "tensor.pt": torch.save,
    "protocol 4.pt": lambda z, path: torch.save(z, path, pickle_protocol=4),
    "legacy.pth": save_legacy,
    "legacy dict.pth": lambda z, path: save_legacy({"samples": z, "seed": 3}, path),
    "comfy dict.pt": lambda z, path: torch.save({"samples": z, "batch_index": [0]}, path),
    "nested.pt": lambda z, path: torch.save({"out": [{"z": z}], "step": (3, 0.5, None, True, "x")}, path),
    "ordered.pt": lambda z, path: torch.save(collections.OrderedDict(latents=z, size=z.shape), path),
    "parameter.pt": lambda z, path: torch.save(torch.nn.Parameter(z), path),
    "transposed.pt": lambda z, path: torch.save(z.transpose(3, 4).contiguous().transpose(3, 4), path),
    "part of more.pt": lambda z, path: torch.save(torch.cat([z - 1, z, z + 1])[1:2], path),
    "array.npy": lambda z, path: np.save(path, z.numpy()),
    "fortran.npy": lambda z, path: np.save(path, np.asfortranarray(z.numpy())),
    "big endian.npy": lambda z, path: np.save(path, z.numpy().astype(">f4")),
    "arrays.npz": lambda z, path: np.savez(path, latent=z.numpy(), noise=z.numpy() + 1, steps=np.arange(3)),
    "compressed.npz": lambda z, path: np.savez_compressed(
        path, latents=z.numpy(), step=np.int64(3), frames=np.zeros((9, 400, 400, 3), np.uint8)
    ),
    "compressed fortran.npz": lambda z, path: np.savez_compressed(path, np.asfortranarray(z.numpy())),
    "harmless.pt": lambda z, path: torch.save({"latents": z, **HARMLESS}, path),
    "harmless, protocol 4.pt": lambda z, path: torch.save(
        {"latents": z, **HARMLESS}, path, pickle_protocol=4
    ),
    "harmless, legacy.pt": lambda z, path: save_legacy([HARMLESS, {"out": (z, HARMLESS)}], path),
    "clean beside noise.pt": lambda z, path: torch.save({"noise": z + 1, "x": z, "mask": z > 0}, path),
    "denoised.safetensors": lambda z, path: save_file({"denoised": z, "a": z + 1, "latents": z - 1}, path),
    "no suffix": torch.save,
    "mislabelled.npy": lambda z, path: save_file({"latent": z}, path),
    "mislabelled.mp4": torch.save,
}


@pytest.mark.parametrize("name", WRITERS)
def test_round_trips(tmp_path: Path, name: str) -> None:
    path, z = tmp_path / name, latent()
    WRITERS[name](z, path)
    path = next(tmp_path.iterdir())  # numpy appends its suffix
    found = read_latent(path, WAN)
    assert found.dtype == torch.float32 and found.is_contiguous()
    assert torch.equal(found, z)
    path.unlink()  # the tensor is a copy
    assert torch.equal(found, z)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float16, torch.bfloat16, torch.float8_e4m3fn])
@pytest.mark.parametrize("suffix", [".pt", ".safetensors"])
def test_types(tmp_path: Path, dtype: torch.dtype, suffix: str) -> None:
    z, path = latent().to(dtype), tmp_path / f"z{suffix}"
    if suffix == ".pt":
        torch.save(z, path)
    else:
        save_file({"latent": z}, path)
    assert torch.equal(read_latent(path, WAN), z.float())


@pytest.mark.parametrize("dtype", ["f2", "f8", "g"])
def test_numpy_types(tmp_path: Path, dtype: str) -> None:
    np.save(tmp_path / "z.npy", latent().numpy().astype(dtype))
    assert torch.allclose(read_latent(tmp_path / "z.npy", WAN), latent(), atol=1e-3)


@pytest.mark.parametrize("shape", [(16, 3, 4, 5), (1, 16, 4, 5), (16, 4, 5), (1, 16, 1, 1, 1)])
def test_missing_dimensions(tmp_path: Path, shape: tuple[int, ...]) -> None:
    torch.save(latent(shape), tmp_path / "z.pt")
    found = read_latent(tmp_path / "z.pt", WAN)
    assert found.ndim == 5 and found.shape[:2] == (1, 16)
    assert torch.equal(found.flatten(), latent(shape).flatten())


def test_a_written_latent_comes_back_in_the_scaling_it_states(tmp_path: Path) -> None:
    raw, path = latent() * 2 + 0.5, tmp_path / "z.safetensors"
    write_latent(raw, path, WAN)
    assert stored_scaling(path) == "normalised"
    z = read_latent(path, WAN)
    assert torch.allclose(to_raw(z, WAN, "normalised"), raw, atol=1e-5)
    assert torch.allclose(to_normalised(raw, WAN), z) and to_raw(raw, WAN, "raw") is raw
    with pytest.raises(OSError):
        write_latent(raw, tmp_path / "missing" / "z.safetensors", WAN)


@pytest.mark.parametrize("preset", PRESETS)
@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("size", [(21, 12, 10), (1, 8, 8), (2, 2, 3)])
def test_the_scaling_is_guessed(preset: str, seed: int, size: tuple[int, int, int]) -> None:
    """As in real latents, normalised channels have means within 0.8 of 0 and standard deviations of 0.6 to 1.2."""
    config = PRESETS[preset]
    random = torch.Generator().manual_seed(seed)
    level, spread, noise = (
        torch.rand(config.z_dim, 1, 1, 1, generator=random),
        torch.rand(config.z_dim, 1, 1, 1, generator=random),
        torch.randn(1, config.z_dim, *size, generator=random),
    )
    normalised = noise * (0.6 + 0.6 * spread) + 1.6 * level - 0.8
    assert guess_scaling(normalised, config)[0] == "normalised"
    scaling, reason, why = guess_scaling(to_raw(normalised, config, "normalised"), config)
    assert scaling == "raw" and reason == "By its values raw." and "standard deviations" in why


def test_a_doubtful_guess_says_so() -> None:
    """Between a clearly normalised latent and a clearly raw one the guess is doubtful."""
    z = latent((1, 16, 3, 8, 8))
    raw = to_raw(z, WAN, "normalised")
    guesses = [guess_scaling(z + (raw - z) * part, WAN) for part in np.linspace(0, 1, 50)]
    doubtful = ["choose the other if the colours look wrong" in guess.why for guess in guesses]
    assert doubtful == [guess.reason.endswith(" (not certain).") for guess in guesses]
    assert [guesses[0][0], guesses[-1][0]] == ["normalised", "raw"]
    assert any(doubtful) and not doubtful[0] and not doubtful[-1]


def test_what_the_file_says_is_believed_unless_the_user_chose(tmp_path: Path) -> None:
    path, z = tmp_path / "z.safetensors", latent()
    for told, believed in (("raw", "raw"), ("normalised", "normalised"), ("<b>", "normalised")):
        save_file({"latent": z}, path, {"scaling": told})
        scaling, reason, _ = choose_scaling(path, z, WAN, "Auto")
        assert scaling == believed and ("as the file says" in reason) == (told == believed)
    save_file({"latent": z}, path, {"scaling": "raw"})
    assert choose_scaling(path, z, WAN, "Normalised") == (
        "normalised",
        "Taken as normalised, as you chose.",
        "",
    )
    assert (
        describe_upload(path, WAN).text
        == "Latent, 16 x 3 x 4 x 5: 9 frames of 40 x 32. Taken as raw, as the file says."
    )
