"""Gallery: the samples to click, and the line on top of the page, as HTML."""

from __future__ import annotations

import base64
import html
import json
from pathlib import Path

import torch

from wanvae_app.assets import DEMO_VAE
from wanvae_app.config import WanConfig
from wanvae_app.jobs.service import JobService

LATENT_TYPES = [".safetensors", ".pt", ".pth", ".npy", ".latent"]
VIDEO_TYPES = [".mp4", ".webm", ".gif", ".mov"]


def find_samples(folder: Path, config: WanConfig) -> list[Path]:
    """The sample latents, smallest first, then the clips. The latents are the demo VAE's own: to another they are
    noise, so they are left out."""
    demo = json.loads((DEMO_VAE / "config.json").read_text())
    latents = LATENT_TYPES if tuple(demo["latents_mean"]) == config.latents_mean else []
    paths = [path for path in folder.glob("*") if path.suffix in latents + VIDEO_TYPES]
    return sorted(paths, key=lambda path: (path.suffix in VIDEO_TYPES, path.stat().st_size))


def gallery_cards(samples: list[Path]) -> str:
    """The samples as buttons, which gallery.js makes clickable."""
    cards = []
    for index, path in enumerate(samples):
        kind = "video" if path.suffix in VIDEO_TYPES else "latent"
        poster = path.with_suffix(".jpg")
        picture = ""
        if poster.is_file():
            data = base64.b64encode(poster.read_bytes()).decode()
            picture = f'<img alt="" src="data:image/jpeg;base64,{data}">'
        name = html.escape(path.stem)
        cards.append(
            f'<button type="button" class="sample" data-index="{index}" title="{name}">'
            f'<span class="poster">{picture}<em>{kind}</em></span><span class="name">{name}</span></button>'
        )
    return f'<h2>Samples</h2><div class="gallery">{"".join(cards)}</div>'


def header(jobs: JobService) -> str:
    """The line on top: which VAE, on what, and whether it is ready."""
    group, vae = jobs.group, jobs.vae
    ranks = f"{group.size} rank{'s' * (group.size != 1)}"
    dtype = str(vae.dtype).removeprefix("torch.")
    facts = [vae.name, f"{ranks} on {device_name(jobs)}", dtype]
    spans = "".join(f"<span>{html.escape(fact)}</span>" for fact in facts)
    return (
        f'<h1>Wan VAE</h1><div class="facts">{spans}</div>'
        '<div class="health" id="health" role="status"><i></i><span>connecting</span></div>'
        '<button type="button" id="theme" title="Dark or light">Dark</button>'
    )


def device_name(jobs: JobService) -> str:
    """CPU, or the GPU's product name."""
    device = jobs.group.device
    return torch.cuda.get_device_name(device) if device.type == "cuda" else "CPU"
