"""Several latents in one file: preferred by the meaning of their names, labelled, and chosen by label."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from wanvae_app.config import PRESETS
from wanvae_app.formats.latent_file import ClipChoice
from wanvae_app.formats.latent_parts import MAX_PARTS
from wanvae_app.formats.latents import clip_labels, read_clip, read_latent
from wanvae_app.page.latent_readings import describe_part
from wanvae_app.page.upload import describe_upload

WAN = PRESETS["wan2.1"]
Z = torch.ones(1, 16, 2, 3, 4)


@pytest.mark.parametrize(
    ("names", "best"),
    [
        (["noise", "latents"], ["latents"]),
        (["z", "latent"], ["latent"]),
        (["a", "noisy_latents"], ["a"]),
        (["out.latents", "init.latents"], ["out.latents"]),
        (["clean", "latent"], ["clean"]),
        (["latents_denoised", "latents"], ["latents_denoised"]),
        (["video_latent", "x"], ["video_latent"]),
        (["image_latents", "mask", "output"], ["output"]),
        (["noise"], ["noise"]),
        (["clip1", "clip2", "noise"], ["clip1", "clip2"]),
    ],
)
def test_the_name_says_what_is_meant(tmp_path: Path, names: list[str], best: list[str]) -> None:
    save_file({name: Z + i for i, name in enumerate(names)}, tmp_path / "z.safetensors")
    labels = clip_labels(tmp_path / "z.safetensors", WAN)
    assert sorted(labels.clips) == sorted(best)
    assert sorted(labels.others) == sorted(set(names) - set(best))
    for i, name in enumerate(names):
        assert torch.equal(read_clip(tmp_path / "z.safetensors", WAN, ClipChoice(name)).values, Z + i)


def test_what_was_picked_is_said(tmp_path: Path) -> None:
    path = tmp_path / "z.safetensors"
    save_file({"noise": Z + 1, "latents": Z, "mask": Z + 2}, path)
    assert "Read latents; the file also holds " in describe_upload(path, WAN).text
    labels = clip_labels(path, WAN)
    assert describe_part(labels, "noise") == "Read noise; the file also holds latents, mask."
    save_file({"latents": Z, "step": torch.zeros(3), "seen": Z.int()}, path)
    assert "Read latents" not in describe_upload(path, WAN).text, "there is no other"


def test_labels_are_printable_and_differ(tmp_path: Path) -> None:
    torch.save({"a<b": Z, "a>b": Z + 1}, tmp_path / "z.pt")
    labels = clip_labels(tmp_path / "z.pt", WAN).clips
    assert labels == ["a?b", "a?b'"]
    for i, label in enumerate(labels):
        assert torch.equal(read_clip(tmp_path / "z.pt", WAN, ClipChoice(label)).values, Z + i)
    with pytest.raises(ValueError, match=r"^z\.pt has no latent x\?y; it has a\?b, a\?b\'\.$"):
        read_clip(tmp_path / "z.pt", WAN, ClipChoice("x<y"))


def test_too_many_clips(tmp_path: Path) -> None:
    torch.save(torch.zeros(MAX_PARTS + 1, 16, 1, 1, 1), tmp_path / "z.pt")
    with pytest.raises(ValueError, match=r"^z\.pt holds more than 64 clips; save fewer in a file\.$"):
        read_latent(tmp_path / "z.pt", WAN)
    torch.save(torch.zeros(MAX_PARTS, 16, 1, 1, 1), tmp_path / "z.pt")
    assert len(clip_labels(tmp_path / "z.pt", WAN).clips) == MAX_PARTS
    torch.save(torch.zeros(0, 16, 1, 1, 1), tmp_path / "z.pt")
    with pytest.raises(ValueError, match="is empty; every dimension must be 1 or more"):
        read_latent(tmp_path / "z.pt", WAN)


def test_an_array_without_a_name_is_called_a_tensor_once(tmp_path: Path) -> None:
    torch.save(torch.zeros(16), tmp_path / "z.pt")
    with pytest.raises(ValueError, match=r"its tensor has shape \[16\]"):
        read_latent(tmp_path / "z.pt", WAN)
    save_file({"tensor": torch.zeros(16)}, tmp_path / "z.safetensors")
    with pytest.raises(ValueError, match=r"its tensor has shape \[16\]"):
        read_latent(tmp_path / "z.safetensors", WAN)
