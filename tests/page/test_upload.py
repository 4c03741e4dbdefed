"""From an upload to a run: what the page is told, what the run is given, and what a refusal leaves behind."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from support.app_runner import wait_for
from support.tiny import some_latent, some_video, tiny_vae

from wanvae_app.config import PRESETS
from wanvae_app.formats.latents import to_normalised, write_latent
from wanvae_app.formats.mp4 import write_mp4
from wanvae_app.jobs.job_state import JobState
from wanvae_app.jobs.service import JobService
from wanvae_app.page import upload as module
from wanvae_app.page.entry import RunInput
from wanvae_app.page.handlers import wait_until_checked
from wanvae_app.page.upload import describe_upload, make_run, native_fps
from wanvae_app.parallel.process_group import Group

WAN = PRESETS["wan2.1"]


@pytest.fixture
def jobs(tmp_path: Path) -> Iterator[JobService]:
    """A service on one rank, which decodes nothing: its jobs thread is not started."""
    jobs = JobService(Group(0, 1, torch.device("cpu")), tiny_vae(), tmp_path / "runs")
    jobs.start = lambda: None  # type: ignore[method-assign]
    yield jobs
    jobs.close()


def make(jobs: JobService, path: Path, scaling: str = "Auto", chunk: int = 2) -> tuple[JobState, RunInput]:
    """Make a run, queue it, and wait until its input is read or refused."""
    run, run_input = make_run(jobs, path, parallel=True, chunk=chunk, scaling=scaling, owner="ann")
    jobs.submit(run)
    wait_for(lambda: run.is_read or run.ended, 20)
    return run, run_input


def one_frame(folder: Path) -> Path:
    """Write a latent of one frame."""
    write_latent(some_latent(1, 8, 8), folder / "one.safetensors", WAN)
    return folder / "one.safetensors"


def folders(jobs: JobService) -> list[Path]:
    return list(jobs.store.folder.glob("*"))


def test_a_latent(jobs: JobService, tmp_path: Path) -> None:
    raw, path = some_latent(3, 8, 8) * 2, tmp_path / "z.safetensors"
    write_latent(raw, path, WAN)
    run, run_input = make(jobs, path)
    assert run.latent is not None and torch.allclose(run.latent, raw, atol=1e-5)
    assert (run.job.chunk, run.job.parallel, run.owner, run.name) == (2, True, "ann", "z.safetensors")
    assert (run.fps, run.num_frames, run.size) == (16.0, 9, (64, 64)) and run.frames.height == 64
    assert "1 frame of 64 x 64" in describe_upload(one_frame(tmp_path), WAN).text
    assert run_input.scaling == "normalised" and run_input.note == "Taken as normalised, as the file says."
    run, other = make(jobs, path, "Raw")
    assert run.latent is not None and torch.allclose(run.latent, to_normalised(raw, WAN), atol=1e-6)
    assert other.digest != run_input.digest, "runs in different scalings are not compared"
    assert make(jobs, path.rename(tmp_path / "same.pt"))[1].digest == run_input.digest
    assert native_fps(PRESETS["wan2.2"]) == 24.0


def test_a_video(jobs: JobService, tmp_path: Path) -> None:
    path = tmp_path / "a.mp4"
    write_mp4(some_video(7, 36, 26), path, 12.0)
    assert describe_upload(path, WAN).text.startswith(
        "Video, 26x36 pixels, 12 frames per second, 0.6 s: it will be cropped"
    )
    run, run_input = make(jobs, path)
    assert (
        run_input.note
        == "The video was cropped from 26x36 to 24x32 and cut from 7 to 5 frames, as the VAE needs."
    )
    assert run.source is not None and len(run.source) == 5 and run.fps == 12.0
    assert folders(jobs) == [run.folder] and run.job.shape == (16, 2, 4, 3)


def test_a_refusal_leaves_nothing_behind(
    jobs: JobService, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_mp4(some_video(5), tmp_path / "clip.mp4", 12.0)
    (tmp_path / "cut.mp4").write_bytes((tmp_path / "clip.mp4").read_bytes()[:2000])
    (tmp_path / "letter.pt").write_text("Dear Sir or Madam")
    nan = torch.full((1, 16, 1, 2, 2), torch.nan)
    torch.save(nan, tmp_path / "nan.pt")
    for name, refusal in (
        ("cut.mp4", "damaged or cut off"),
        ("letter.pt", "not a latent"),
        ("nan.pt", "no numbers"),
    ):
        run, _ = make(jobs, tmp_path / name)
        assert run.refused and run.status == "failed" and not run.is_read
        assert name in run.message and refusal in run.message and run.message.count(". ") == 0
    for name in ("gone.pt", ""):  # "": a folder
        with pytest.raises(ValueError, match="no longer on the server"):
            make(jobs, tmp_path / name)
    with pytest.raises(ValueError, match="Unknown latent scaling 'rAw'"):
        make(jobs, tmp_path / "cut.mp4", "rAw")
    with pytest.raises(ValueError, match="17 latent frames per chunk is impossible; choose 1 to 16"):
        make(jobs, tmp_path / "cut.mp4", chunk=17)
    wait_for(lambda: folders(jobs) == [], 5)

    def broken(*_: object, **__: object) -> None:
        raise KeyError("a fault of our own")

    monkeypatch.setattr(module, "read_video", broken)
    run, _ = make(jobs, tmp_path / "clip.mp4")
    assert run.message == "clip.mp4 could not be read (KeyError); the log says more."
    wait_for(lambda: folders(jobs) == [], 5)


def test_a_click_waits_for_a_refusal_but_not_for_a_video(jobs: JobService, tmp_path: Path) -> None:
    (tmp_path / "letter.pt").write_text("Dear Sir or Madam")
    run, _ = make_run(jobs, tmp_path / "letter.pt", parallel=True, chunk=1, scaling="Auto", owner="ann")
    jobs.submit(run)
    wait_until_checked(run, 20)
    assert run.refused
    start = time.monotonic()
    write_mp4(some_video(5), tmp_path / "clip.mp4", 12.0)
    run, _ = make_run(jobs, tmp_path / "clip.mp4", parallel=True, chunk=1, scaling="Auto", owner="ann")
    wait_until_checked(run, 0.2)  # it is not queued, so nobody reads it
    assert time.monotonic() - start < 5 and not run.is_read


def test_no_place_for_a_folder(jobs: JobService, tmp_path: Path) -> None:
    """Where no folder can be made, the clip is kept in memory."""
    write_mp4(some_video(5), tmp_path / "a.mp4", 12.0)
    (tmp_path / "runs").write_text("a file where the folder should be")
    run, _ = make(jobs, tmp_path / "a.mp4")
    assert run.folder == jobs.folder and run.source is not None and len(run.source) == 5
    (tmp_path / "runs").unlink()
