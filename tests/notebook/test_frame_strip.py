"""watch and play: what a notebook shows of frames, and what is refused."""

from __future__ import annotations

import base64
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import imageio.v3 as iio
import numpy as np
import pytest
import torch
from support.tiny import some_latent, tiny_vae
from torch import Tensor

from wanvae_app import LoadedVae, notebook
from wanvae_app.api.ranks import Ranks
from wanvae_app.notebook import frame_strip
from wanvae_app.parallel.process_group import Group


class Shown(list[str]):
    """Everything that was shown, in order; `text` is what a terminal sees last."""

    text = ""


@pytest.fixture
def shown(monkeypatch: pytest.MonkeyPatch) -> Shown:
    """What cells show from now on."""
    everything = Shown()

    class Recorded:
        def __init__(self, content: str, text: str) -> None:
            self.update(content, text)

        def update(self, content: str, text: str) -> None:
            everything.append(content)
            everything.text = text

    monkeypatch.setattr("wanvae_app.notebook.frame_strip.CellOutput", Recorded)
    monkeypatch.setattr("wanvae_app.notebook.clips.CellOutput", Recorded)
    monkeypatch.setattr(frame_strip, "UPDATE_INTERVAL", 0.0)
    return everything


def clip(num_frames: int, height: int = 32, width: int = 48) -> Tensor:
    """A grey clip that gets brighter."""
    levels = torch.linspace(20, 220, num_frames).round().to(torch.uint8)
    return levels.view(-1, 1, 1, 1).expand(-1, height, width, 3).contiguous()


def num_filled(content: str) -> int:
    """How many places of the strip hold a frame."""
    return content.count(f"width:{frame_strip.THUMBNAIL_WIDTH}px") - content.count("background")


def test_frames_appear_while_they_come(shown: Shown) -> None:
    frames = clip(33)
    seen: list[int] = []  # frames that are on show when the next chunk is asked for

    def stream() -> Iterator[Tensor]:
        for part in frames.split([1, 8, 8, 8, 8]):
            seen.append(num_filled(shown[-1]))
            yield part

    assert torch.equal(notebook.watch(stream(), 33), frames)
    assert seen == [0, 1, 3, 5, 7] and num_filled(shown[-1]) == frame_strip.MAX_THUMBNAILS
    progress = [int(value) for content in shown for value in re.findall(r'value="(\d+)"', content)]
    assert progress == [0, 1, 9, 17, 25, 33, 33]
    assert re.fullmatch(
        r"33 of 33 frames, first one after [\d.]+ s, all after [\d.]+ s, .*frames/s", shown.text
    )


def test_an_update_is_small_however_long_the_clip_is(shown: Shown) -> None:
    frames = torch.randint(256, (200, 270, 480, 3), dtype=torch.uint8)  # noise, the worst for JPEG
    notebook.watch(iter(frames.split(100)), 200)
    assert max(map(len, shown)) < 500_000


def test_a_stream_that_is_stopped_is_closed_and_stays_on_show(shown: Shown) -> None:
    closed = []

    def stream() -> Iterator[Tensor]:
        try:
            yield clip(1)
            raise KeyboardInterrupt
        finally:
            closed.append(True)

    with pytest.raises(KeyboardInterrupt):
        notebook.watch(stream(), 5)
    assert closed and shown.text.startswith("1 of 5 frames") and shown.text.endswith("stopped")
    assert num_filled(shown[-1]) == 1


def test_an_interrupted_cell_leaves_the_vae_as_it_was(shown: Shown) -> None:
    vae = LoadedVae(tiny_vae(torch.float64), Ranks(Group(0, 1, torch.device("cpu"))))
    latent = some_latent(3).double()
    whole = vae.decode(latent, scaling="normalised")

    def interrupt(*_: object) -> None:
        if num_filled(shown[-1]):  # the first frame is on show
            raise KeyboardInterrupt

    hook = vae.model.decoder.register_forward_pre_hook(interrupt)
    with pytest.raises(KeyboardInterrupt):
        notebook.watch(vae.decode_stream(latent, scaling="normalised"), len(whole))
    hook.remove()
    assert shown.text.startswith(f"1 of {len(whole)} frames") and shown.text.endswith("stopped")
    assert torch.equal(notebook.watch(vae.decode_stream(latent, scaling="normalised"), len(whole)), whole)


@pytest.mark.parametrize(
    "parts, num_frames, sentence",
    [
        ([torch.zeros(1, 3, 1, 8, 8)], 1, r"uint8 \[N, H, W, 3\]"),
        ([torch.zeros(8, 8, 3, dtype=torch.uint8)], 1, r"shape \[8, 8, 3\]"),
        ([torch.zeros(0, 8, 8, 3, dtype=torch.uint8)], 1, r"shape \[0, 8, 8, 3\]"),
        ([], 1, "no frames"),
        ([], 0, "give 1 or more"),
    ],
)
def test_what_cannot_be_shown(shown: Shown, parts: list[Tensor], num_frames: int, sentence: str) -> None:
    with pytest.raises(ValueError, match=sentence):
        notebook.watch(iter(parts), num_frames)


def test_a_clip_is_played_as_a_video(shown: Shown, tmp_path: Path) -> None:
    frames = clip(9)
    notebook.play(frames.numpy(), fps=8)
    found = re.search(r"data:video/mp4;base64,([^\"]+)", shown[-1])
    assert found is not None and "controls" in shown[-1]
    (tmp_path / "clip.mp4").write_bytes(base64.b64decode(found[1]))
    played = iio.imread(tmp_path / "clip.mp4").astype(int)
    assert played.shape == (9, 32, 48, 3) and np.abs(played - frames.numpy()).max() <= 3
    assert iio.immeta(tmp_path / "clip.mp4")["fps"] == 8


@pytest.mark.parametrize(
    "frames, sentence",
    [(clip(1).float(), "give uint8"), (clip(1)[0], "give uint8"), (clip(1)[:, :31], "48x31 .* even")],
)
def test_what_cannot_be_played(shown: Shown, frames: Any, sentence: str) -> None:
    with pytest.raises(ValueError, match=sentence):
        notebook.play(frames)


def test_a_terminal_reads_sentences(capsys: pytest.CaptureFixture[str]) -> None:
    notebook.watch(iter([clip(5)]), 5)
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "0 of 5 frames" and lines[-1].startswith("5 of 5 frames")


def test_frames_with_alpha_are_shown(shown: Shown) -> None:
    frames = torch.cat((clip(3), torch.full((3, 32, 48, 1), 100, dtype=torch.uint8)), 3)
    assert torch.equal(notebook.watch(iter([frames]), 3), frames)
    assert "data:image/jpeg" in shown[-1]
    notebook.play(frames)
    assert "data:video/mp4" in shown[-1] and shown.text == "a video of 3 frames, 48x32"
