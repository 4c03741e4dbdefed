"""The ways in which a file of latents can be read: which clips it holds, and what its values leave open."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

from torch import Tensor

from wanvae_app.config import WanConfig
from wanvae_app.formats.latent_file import ClipChoice, ClipLabels
from wanvae_app.formats.latent_layout import CHANNELS_FIRST, FRAMES_FIRST, ORDERS
from wanvae_app.formats.latents import (
    ScalingGuess,
    clip_labels,
    guess_scaling,
    read_clip,
    stored_facts,
    to_raw,
)
from wanvae_app.formats.video import is_video

SCALINGS = ("Auto", "Normalised", "Raw")
ORDER_NAMES = ("Auto", *(order.capitalize() for order in ORDERS))
COMFYUI_PRIOR = 2.0  # nats for raw: ComfyUI's own latents are, but its SaveLatent saves WanVideoWrapper's too
MAX_OTHERS = 4  # further latents of a file that are offered
PICTURE_SIDE = 32  # latent rows and columns in the middle of a frame that its picture shows
DOUBTS = {"scaling": "normalised or raw", "order": "frames or channels first"}


class Answer(NamedTuple):
    """How one file is read, as somebody said; what was left open is empty, or "Auto"."""

    scaling: str = "Auto"  # one of SCALINGS
    order: str = ""  # one of ORDERS
    part: str = ""  # a label as `clip_labels` gives it


class Reading(NamedTuple):
    """One way to read a file: what it is called, what the answer for it is, and the first frame that it gives."""

    label: str
    answer: Answer
    frame: Tensor  # raw, [1, C, 1, H, W], of at most PICTURE_SIDE rows and columns


def make_choice(part: str, order: str) -> ClipChoice:
    """The choice that a program states. Raises ValueError for an order that is none of ORDER_NAMES."""
    if order not in ORDER_NAMES:
        raise ValueError(f"Unknown order {order!r}; choose one of {', '.join(ORDER_NAMES)}.")
    return ClipChoice(part, "" if order == ORDER_NAMES[0] else order.lower())


def find_clips(path: Path, config: WanConfig, answer: Answer) -> list[ClipChoice]:
    """What is decoded of a file, a run each. A file that cannot be read is one run, which then says why."""
    if answer.part or is_video(path):
        return [ClipChoice(answer.part, answer.order)]
    try:
        clips = clip_labels(path, config, answer.order).clips
    except (ValueError, OSError):
        return [ClipChoice(order=answer.order)]
    return [ClipChoice(clip if len(clips) > 1 else "", answer.order) for clip in clips]


def describe_part(labels: ClipLabels, part: str) -> str:
    """Say which of a file's latents is read, if there are several. `part` is empty for the only clip."""
    clips, others = labels
    if part in clips and len(clips) > 1:
        return f"Clip {1 + clips.index(part)} of {len(clips)}, {part}."
    rest = [label for label in (*clips, *others) if label != (part or clips[0])]
    if not rest:
        return ""
    return f"Read {part or clips[0]}; the file also holds {', '.join(rest[:MAX_OTHERS])}."


def choose_scaling(path: Path, z: Tensor, config: WanConfig, wanted: str) -> ScalingGuess:
    """Return the scaling of latent `z`, and how it was found.

    `wanted` is one of SCALINGS. "Auto" takes what the file says, and otherwise guesses from the values.
    """
    if wanted == "Auto":
        facts = stored_facts(path)
        if facts.scaling:
            return ScalingGuess(facts.scaling, f"Taken as {facts.scaling}, as the file says.")
        return guess_scaling(z, config, COMFYUI_PRIOR if facts.is_comfyui else 0.0)
    return ScalingGuess(wanted.lower(), f"Taken as {wanted.lower()}, as you chose.")


def describe_doubt(guess: ScalingGuess, is_order_certain: bool) -> str:
    """Say what a reading left open, for programs; "" if nothing."""
    open_facts = [] if guess.is_certain else [DOUBTS["scaling"]]
    open_facts += [] if is_order_certain else [DOUBTS["order"]]
    return f"It is not certain whether this is {' and '.join(open_facts)}: say which." if open_facts else ""


def find_readings(path: Path, config: WanConfig, wanted: str) -> list[Reading]:
    """The ways to read a file of latents among which a person should choose, the likeliest first; one if all is clear.

    `wanted` is the scaling that was chosen for all files, one of SCALINGS. Of several clips the first is looked at.
    Raises ValueError and OSError for a file that cannot be read.
    """
    labels = clip_labels(path, config)
    first = labels.clips[0] if len(labels.clips) > 1 else ""
    found = read_clip(path, config, ClipChoice(first))
    readings = _readings_of_scaling(path, config, wanted, found.values, "", CHANNELS_FIRST.capitalize())
    if not found.is_order_certain:
        orders = ((CHANNELS_FIRST, found.values), (FRAMES_FIRST, found.values.transpose(1, 2)))
        readings = [
            reading
            for order, z in orders
            for reading in _readings_of_scaling(path, config, wanted, z, order, order.capitalize())
        ]
    for part in labels.others[:MAX_OTHERS]:
        z = read_clip(path, config, ClipChoice(part)).values
        guess = choose_scaling(path, z, config, wanted)
        readings.append(Reading(part, Answer(part=part), to_raw(_first_frame(z), config, guess.scaling)))
    if labels.others:
        name = labels.clips[0] if len(labels.clips) == 1 else f"{len(labels.clips)} clips"
        own = len(readings) - len(labels.others[:MAX_OTHERS])
        readings[:own] = [
            each._replace(label=name if own == 1 else f"{name}: {each.label}") for each in readings[:own]
        ]
    return readings


def _readings_of_scaling(
    path: Path, config: WanConfig, wanted: str, z: Tensor, order: str, order_name: str
) -> list[Reading]:
    """One reading of z [1, C, T, H, W], or one for each scaling if it can be told by nothing, the likelier first."""
    guess = choose_scaling(path, z, config, wanted)
    scalings = [guess.scaling]
    if not guess.is_certain:
        scalings.append("raw" if guess.scaling == "normalised" else "normalised")
    readings = []
    for scaling in scalings:
        name = scaling.capitalize()
        label = name if not order else order_name if guess.is_certain else f"{order_name}, {scaling}"
        answer = Answer("Auto" if guess.is_certain else name, order)
        readings.append(Reading(label, answer, to_raw(_first_frame(z), config, scaling)))
    return readings


def _first_frame(z: Tensor) -> Tensor:
    """The middle of the first latent frame, [1, C, 1, H, W], with at most PICTURE_SIDE rows and columns."""
    height, width = z.shape[-2:]
    rows, columns = min(height, PICTURE_SIDE), min(width, PICTURE_SIDE)
    top, left = (height - rows) // 2, (width - columns) // 2
    return z[:, :, :1, top : top + rows, left : left + columns].contiguous()
