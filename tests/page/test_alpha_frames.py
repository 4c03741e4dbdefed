"""Frames with alpha on the page: over a checkerboard where they are seen, whole where they are saved and kept."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
from PIL import Image
from support.app_runner import wait_for
from support.page_server import jpegs, running_server
from support.tiny import some_latent, tiny_vae_with_alpha

from wanvae_app.alpha import DARK, LIGHT, SQUARE, over_checkerboard
from wanvae_app.jobs.archive import Archive
from wanvae_app.page.entry import RunInput


def picture(data: bytes) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(data)))


def test_the_checkerboard_is_seen_where_alpha_is_low() -> None:
    frame = np.zeros((2, 2 * SQUARE, 2 * SQUARE, 4), np.uint8)
    frame[..., :3] = 10, 20, 30
    frame[1, ..., 3] = 255
    frame[0, 0, 0, 3] = 51  # a fifth
    seen = over_checkerboard(frame)
    assert np.array_equal(seen[1], frame[1, ..., :3]), "what is opaque stays as it is"
    assert seen[0, 0, SQUARE].tolist() == [DARK] * 3 and seen[0, SQUARE, SQUARE].tolist() == [LIGHT] * 3
    assert seen[0, 0, 0].tolist() == [206, 208, 210]
    assert over_checkerboard(seen) is seen and seen.shape == (2, 2 * SQUARE, 2 * SQUARE, 3)
    random = np.random.default_rng(0).integers(0, 256, (3, 20, 18, 4), dtype=np.uint8)
    of_16_bits = over_checkerboard(random.astype(np.uint16) * 257)
    assert np.abs(of_16_bits / 257 - over_checkerboard(random)).max() <= 0.51


def test_a_run_with_alpha_is_seen_saved_and_kept(tmp_path: Path) -> None:
    archive = tmp_path / "archive"
    with running_server(tmp_path, Archive(archive, 10**8), tiny_vae_with_alpha()) as server:
        cookie = server.visitor.cookies["wanvae"]
        runs = []
        for latent in (some_latent(2), some_latent(2).neg()):
            run = server.jobs.new_run(latent=latent, owner=cookie, name="layers.pt")
            entry = server.history.submit(run, RunInput("digest"))
            wait_for(lambda entry=entry: entry.settled and not entry.run.is_pinned, 30)
            runs.append(run)
        run, other = runs
        frames = run.frames.read(0, 5)
        seen = over_checkerboard(frames)
        assert frames.shape == (5, 32, 24, 4) and run.frames.num_bytes == frames.nbytes
        address = f"/live/{run.id}/frame/3.png"
        assert np.array_equal(picture(server.visitor.get(address).content), seen[3])
        assert np.array_equal(picture(server.visitor.get(f"{address}?alpha=1").content), frames[3])
        streamed = jpegs(server.visitor.get(f"/live/{run.id}").content)
        assert len(streamed) == 5 and np.abs(picture(streamed[0]).astype(int) - seen[0]).mean() < 8
        numbers = server.visitor.get(f"/compare/{run.id}/{other.id}/frame/3").json()
        others = over_checkerboard(other.frames.read(3, 4))[0]
        assert numbers["max_abs"] == np.abs(seen[3].astype(int) - others).max() > 0
        assert server.visitor.get(f"/live/{run.id}/video.mp4").status_code == 200
    with running_server(tmp_path, Archive(archive, 10**8), tiny_vae_with_alpha()) as server:
        again = server.history.get(run.id, cookie)
        assert again is not None and again.run.frames.channels == 4
        assert np.array_equal(again.run.frames.read(0, 5), frames), "the history keeps alpha bit for bit"
