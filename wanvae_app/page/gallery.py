"""The samples to click, and the header of the page, as HTML."""

from __future__ import annotations

import base64
import html
import json
from pathlib import Path

from wanvae_app.assets import DEMO_VAE
from wanvae_app.config import WanConfig
from wanvae_app.jobs.service import JobService

LATENT_TYPES = [".safetensors", ".pt", ".pth", ".npy", ".latent"]
VIDEO_TYPES = [".mp4", ".webm", ".gif", ".mov"]


def find_samples(folder: Path, config: WanConfig) -> list[Path]:
    """List the sample latents, then the sample videos, each smallest first.

    The latents were made by the demo VAE. Another VAE decodes them to noise, so for it they are left out.
    """
    demo = json.loads((DEMO_VAE / "config.json").read_text())
    latent_types = LATENT_TYPES if tuple(demo["latents_mean"]) == config.latents_mean else []
    paths = [path for path in folder.glob("*") if path.suffix in latent_types + VIDEO_TYPES]
    return sorted(paths, key=lambda path: (path.suffix in VIDEO_TYPES, path.stat().st_size))


def gallery_html(samples: list[Path]) -> str:
    """The samples as buttons, each with the .jpg beside it as its picture. gallery.js makes them clickable."""
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


def header_html(jobs: JobService) -> str:
    """The line on top of the page: which VAE, on which devices, in which dtype, by which code, and whether it is ready.

    Pointing at the code path shows why it was chosen.
    """
    group, vae = jobs.group, jobs.vae
    devices = ", ".join(dict.fromkeys(group.device_names))
    ranks = f"{group.size} rank{'s' * (group.size != 1)}"
    facts = [vae.name, f"{ranks} on {devices}", str(vae.dtype).removeprefix("torch.")]
    spans = "".join(f"<span>{html.escape(fact)}</span>" for fact in facts)
    reason = vae.path.reason[:1].upper() + vae.path.reason[1:]
    word = f'<abbr id="path" tabindex="0" title="{html.escape(reason)}">{html.escape(vae.path.name)}</abbr>'
    spans += f"<span>{word}</span>"
    return (
        f'<h1>Wan VAE</h1><div class="facts">{spans}</div>'
        '<div class="health" id="health" role="status"><i></i><span>connecting</span></div>'
        '<button type="button" id="theme" title="Dark or light">Dark</button>'
    )
