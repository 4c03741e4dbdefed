"""From an upload to a run: what the page is told, what the run is given, and what a refusal leaves behind."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest
import torch
from support.tiny import some_latent, some_video

from wanvae_app.config import PRESETS
from wanvae_app.formats.latents import to_normalised, write_latent
from wanvae_app.formats.mp4 import write_mp4
from wanvae_app.jobs.result_store import ResultStore
from wanvae_app.jobs.service import JobService
from wanvae_app.page.entry import RunInput
from wanvae_app.page.upload import describe_upload, make_run, native_fps

WAN = PRESETS["wan2.1"]


@pytest.fixture
def jobs(tmp_path: Path) -> JobService:
    """A service without ranks. Its `new_run` returns the arguments that it was called with."""

    def new_run(**given: Any) -> SimpleNamespace:
        if given["name"].startswith("too large"):
            raise ValueError("This clip does not fit into memory.")
        return SimpleNamespace(**given)

    vae = SimpleNamespace(config=WAN)
    return cast(JobService, SimpleNamespace(vae=vae, store=ResultStore(tmp_path / "runs"), new_run=new_run))


def make(jobs: JobService, path: Path, scaling: str = "Auto", chunk: int = 2) -> tuple[Any, RunInput]:
    return make_run(jobs, path, parallel=True, chunk=chunk, scaling=scaling, owner="ann")


def folders(jobs: JobService) -> list[Path]:
    return list(jobs.store.folder.glob("*"))


def test_a_latent(jobs: JobService, tmp_path: Path) -> None:
    raw, path = some_latent(3, 8, 8) * 2, tmp_path / "z.safetensors"
    write_latent(raw, path, WAN)
    run, run_input = make(jobs, path)
    assert torch.allclose(run.latent, raw, atol=1e-5)
    assert (run.chunk, run.parallel, run.owner, run.name, run.fps) == (2, True, "ann", "z.safetensors", 16.0)
    assert run_input.scaling == "normalised" and run_input.note == "Taken as normalised, as the file says."
    run, other = make(jobs, path, "Raw")
    assert torch.allclose(run.latent, to_normalised(raw, WAN), atol=1e-6)
    assert other.digest != run_input.digest, "runs in different scalings are not compared"
    assert make(jobs, path.rename(tmp_path / "same.pt"))[1].digest == run_input.digest
    assert native_fps(PRESETS["wan2.2"]) == 24.0


def test_a_video(jobs: JobService, tmp_path: Path) -> None:
    path = tmp_path / "a.mp4"
    write_mp4(some_video(7, 36, 26), path, 12.0)
    assert describe_upload(path, WAN).startswith(
        "Video, 26x36 pixels, 12 frames per second, 0.6 s: it will be cropped"
    )
    run, run_input = make(jobs, path)
    assert (
        run_input.note
        == "The video was cropped from 26x36 to 24x32 and cut from 7 to 5 frames, as the VAE needs."
    )
    assert len(run.source) == 5 and run.fps == 12.0 and folders(jobs) == [run.folder]


def test_a_refusal_leaves_nothing_behind(jobs: JobService, tmp_path: Path) -> None:
    write_mp4(some_video(5), tmp_path / "too large.mp4", 12.0)
    (tmp_path / "cut.mp4").write_bytes((tmp_path / "too large.mp4").read_bytes()[:2000])
    for name, refusal in (
        ("too large.mp4", "does not fit"),
        ("cut.mp4", "damaged or cut off"),
        ("gone.pt", "no longer on the server"),
        ("", "no longer on the server"),  # a folder
    ):
        with pytest.raises(ValueError, match=refusal):
            make(jobs, tmp_path / name)
    assert folders(jobs) == []
    with pytest.raises(ValueError, match="Unknown latent scaling 'rAw'"):
        make(jobs, tmp_path / "cut.mp4", "rAw")
    with pytest.raises(ValueError, match="17 latent frames per chunk is impossible; choose 1 to 16"):
        make(jobs, tmp_path / "cut.mp4", chunk=17)


def test_no_place_for_a_folder(jobs: JobService, tmp_path: Path) -> None:
    """Where no folder can be made, the clip is kept in memory."""
    write_mp4(some_video(5), tmp_path / "a.mp4", 12.0)
    (tmp_path / "runs").write_text("a file where the folder should be")
    run, _ = make(jobs, tmp_path / "a.mp4")
    assert run.folder is None and len(run.source) == 5
