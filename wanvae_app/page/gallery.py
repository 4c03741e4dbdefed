"""The samples to click, and the header of the page, as HTML."""

from __future__ import annotations

import base64
import html
import json
from collections.abc import Iterable
from functools import cache
from pathlib import Path

import torch

from wanvae_app.assets import DEMO_VAE
from wanvae_app.config import WanConfig
from wanvae_app.device import slow_dtype
from wanvae_app.errors import plural
from wanvae_app.formats.checkpoint import family_and_width
from wanvae_app.jobs.service import JobService
from wanvae_app.jobs.vae_cache import VaeCache
from wanvae_app.model.vae import WanVAE

LATENT_TYPES = [".safetensors", ".pt", ".pth", ".npy", ".npz", ".latent"]
VIDEO_TYPES = [
    ".mp4",
    ".m4v",
    ".mov",
    ".mkv",
    ".webm",
    ".avi",
    ".ts",
    ".mts",
    ".mpg",
    ".flv",
    ".wmv",
    ".ogv",
    ".gif",
]
PICTURE_TYPES = [
    ".png",
    ".jpg",
    ".webp",
    ".avif",
    ".heic",
]  # the samples' posters are .jpg, so these are no samples


def find_samples(folder: Path, configs: Iterable[WanConfig]) -> list[Path]:
    """List the sample latents, then the sample videos, each smallest first, that any of these VAEs can show."""
    choices = list(configs)
    paths = [path for path in folder.glob("*") if any(_fits(path, config) for config in choices)]
    return sorted(paths, key=lambda path: (path.suffix in VIDEO_TYPES, path.stat().st_size))


def _fits(path: Path, config: WanConfig) -> bool:
    """Whether a file is a sample for this VAE. The latents were made by the demo VAE: another decodes them to noise."""
    if path.suffix in VIDEO_TYPES:
        return config.has_encoder and config.has_decoder
    return path.suffix in LATENT_TYPES and config.has_decoder and config.latents_mean == _demo_mean()


@cache
def _demo_mean() -> tuple[float, ...]:
    return tuple(json.loads((DEMO_VAE / "config.json").read_text())["latents_mean"])


def gallery_html(samples: list[Path], config: WanConfig) -> str:
    """The samples for one VAE as buttons, each with the .jpg beside it as its picture. gallery.js makes them clickable.

    A button's data-index counts all samples.
    """
    cards = []
    for index, path in enumerate(samples):
        if not _fits(path, config):
            continue
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


def vae_facts(vaes: VaeCache) -> dict[str, dict[str, str | int]]:
    """What the page says of each VAE, by name: its label, its code path and why it has that one, its default chunk."""
    facts: dict[str, dict[str, str | int]] = {}
    for name in vaes.names:
        vae = vaes[name]
        label = vae.name if len(vaes.names) == 1 else f"{name} ({family_and_width(vae.config)})"
        reason = vae.path.reason[:1].upper() + vae.path.reason[1:]
        facts[name] = {"label": label, "path": vae.path.name, "reason": reason, "chunk": vae.default_chunk}
    return facts


def upload_hint(vae: WanVAE, device: torch.device) -> str:
    """What may be uploaded, and what a user should know of the VAE and how it runs on a device, as HTML."""
    hint = (
        f"<p class='hint'>Latents: {' '.join(LATENT_TYPES)}<br>Videos: {' '.join(VIDEO_TYPES)}<br>"
        f"Pictures, also animated: {' '.join(PICTURE_TYPES)}; as a clip: numbered .png or .jpg, or a .zip of them</p>"
    )
    slow = slow_dtype(vae.dtype, device)
    notes = (*vae.notes, *([f"{slow}."] if slow else []))
    return hint + "".join(f"<p class='hint note'>{html.escape(note)}</p>" for note in notes)


def header_html(jobs: JobService) -> str:
    """The line on top of the page: which VAE, on which devices, in which dtype, by which code, and whether it is ready.

    Pointing at the code path shows why it was chosen. vae_facts.js shows the facts of another VAE once it is chosen.
    """
    group, vae = jobs.group, jobs.vae
    devices = ", ".join(dict.fromkeys(group.device_names))
    by_name = vae_facts(jobs.vaes)
    first = by_name[jobs.vaes.names[0]]
    facts = [f"{plural(group.size, 'rank')} on {devices}", str(vae.dtype).removeprefix("torch.")]
    spans = f'<span id="which">{html.escape(str(first["label"]))}</span>'
    spans += "".join(f"<span>{html.escape(fact)}</span>" for fact in facts)
    path, reason = (html.escape(str(first[name])) for name in ("path", "reason"))
    spans += f'<span><abbr id="path" tabindex="0" title="{reason}">{path}</abbr></span>'
    return (
        f'<h1>Wan VAE</h1><div class="facts" data-vaes="{html.escape(json.dumps(by_name))}">{spans}</div>'
        '<div class="health" id="health" role="status"><i></i><span>connecting</span></div>'
        '<button type="button" id="theme" title="Dark or light">Dark</button>'
    )
