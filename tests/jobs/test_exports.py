"""Files that are asked for of ended runs: exact, of 16 bits from the decoder itself, stopped, and refused."""

from __future__ import annotations

import time
import zipfile
from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
import tifffile
import torch
from PIL import Image
from support.ranked_jobs import frames_of, on_ranks, run_to_end, wait_until_ended
from support.tiny import some_latent, some_video, tiny_vae

from wanvae_app.codec import decode_chunks
from wanvae_app.formats.outputs import find_output
from wanvae_app.jobs import exports
from wanvae_app.jobs.budget import written_bytes
from wanvae_app.jobs.export import Export, ExportStatus
from wanvae_app.jobs.job_state import JobState
from wanvae_app.jobs.service import JobService
from wanvae_app.parallel.process_group import Group


def make(jobs: JobService, run: JobState, name: str, seconds: float = 30) -> Export:
    """Ask for a file, and return it when that has ended."""
    return wait_for_end(jobs.exports.start(run, name), seconds)


def wait_for_end(export: Export, seconds: float = 30) -> Export:
    end = time.monotonic() + seconds
    while not export.status.ended:
        assert time.monotonic() < end, export.status
        time.sleep(0.02)
    return export


def pictures(path: Path) -> np.ndarray:
    """The pictures of an archive."""
    with zipfile.ZipFile(path) as archive:
        files = [BytesIO(archive.read(name)) for name in archive.namelist()]
    is_tiff = path.name.startswith("tiff")
    return np.stack([tifffile.imread(file) if is_tiff else np.asarray(Image.open(file)) for file in files])


def decoded_exactly(latent: torch.Tensor) -> np.ndarray:
    """The frames of a latent, uint16 [T H W 3], decoded on one rank: round(65535 x), x in [0, 1] in float64."""
    frames = torch.cat(list(decode_chunks(tiny_vae(torch.float64), [latent.double()])), 2)
    values = (frames[0].permute(1, 2, 3, 0).numpy() + 1) / 2
    return np.rint(values * 65535).astype(np.uint16)


def export_a_run(jobs: JobService) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Frames of a decoded run, its PNGs and TIFFs; latent and TIFFs of a roundtrip."""
    run = run_to_end(jobs, latent=some_latent(3), chunk=1, name="a.b.pt")
    png, tiff = make(jobs, run, "png"), make(jobs, run, "tiff")
    assert (png.status, tiff.status) == ("finished", "finished"), (png.message, tiff.message)
    assert png.file_name == "a.b-png.zip" and png.progress == tiff.progress == 1
    assert jobs.runs() == [run], "the run that decoded 16 bits is still there"
    assert jobs.exports.start(run, "png") is png, "it is made twice"
    roundtrip = run_to_end(jobs, source=some_video(5), chunk=1)
    deep = make(jobs, roundtrip, "tiff")
    assert deep.status == "finished", deep.message
    assert png.path and tiff.path and deep.path and roundtrip.latent is not None
    found = (
        frames_of(run),
        pictures(png.path),
        pictures(tiff.path),
        roundtrip.latent.numpy(),
        pictures(deep.path),
    )
    jobs.store.delete(run)
    assert not tiff.path.exists() and not png.path.exists()
    return found


@pytest.mark.parametrize("size", [1, 2])
def test_files_hold_what_the_decoder_made(size: int, tmp_path: Path) -> None:
    if size == 1:
        jobs = JobService(Group(0, 1, torch.device("cpu")), tiny_vae(torch.float64), tmp_path / "runs")
        frames, png, tiff, latent, deep = export_a_run(jobs)
        jobs.close()
    else:
        frames, png, tiff, latent, deep = on_ranks(size, export_a_run)
    assert np.array_equal(png, frames)
    assert tiff.dtype == np.uint16 and np.array_equal(tiff, decoded_exactly(some_latent(3)))
    assert len(np.unique(tiff & 255)) > 200, "the low bits are made up"
    assert np.array_equal(deep, decoded_exactly(torch.from_numpy(latent)))


@pytest.fixture
def jobs(tmp_path: Path):
    service = JobService(Group(0, 1, torch.device("cpu")), tiny_vae(), tmp_path / "runs")
    yield service
    service.close()
    assert not service.folder.exists()


def test_a_stopped_run_gives_the_frames_that_it_has(jobs: JobService) -> None:
    run = jobs.new_run(latent=some_latent(13), chunk=1)
    jobs.submit(run)
    while not len(run.frames):
        run.wait(0.05)
    run.stop()
    wait_until_ended(run)
    assert 0 < len(run.frames) < 49
    export = make(jobs, run, "tiff")
    assert export.status == "finished" and export.path is not None
    assert len(pictures(export.path)) == len(run.frames)


def test_a_file_is_stopped_while_it_is_decoded_and_while_it_is_written(
    jobs: JobService, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = run_to_end(jobs, latent=some_latent(13), chunk=1)
    export = jobs.exports.start(run, "tiff")
    assert export.status == ExportStatus.DECODING
    jobs.exports.stop(run, "tiff")
    assert wait_for_end(export).status == "stopped" and len(jobs.runs()) == 1

    def endless(log: object):
        while True:
            yield run.frames.read(0, 1)

    monkeypatch.setattr(exports, "frame_batches", endless)
    export = jobs.exports.start(run, "ffv1")
    while export.num_written < 3:
        time.sleep(0.01)
    jobs.exports.stop(run, "ffv1")
    assert wait_for_end(export).status == "stopped"
    assert export.folder is not None and not list(export.folder.iterdir())
    monkeypatch.undo()
    assert make(jobs, run, "ffv1").status == "finished", "after Stop it cannot be made again"


def test_a_videos_saved_latent_is_enough(jobs: JobService) -> None:
    """As a run of an earlier start has it."""
    run = run_to_end(jobs, source=some_video(5), chunk=1)
    assert run.latent is not None and run.latent_path is not None
    expected, run.latent, run.input_path = decoded_exactly(run.latent).astype(int), None, None
    export = make(jobs, run, "tiff")
    assert export.status == "finished" and export.path is not None, export.message
    assert np.abs(pictures(export.path) - expected).max() <= 2  # in float32


def test_what_cannot_be_made_is_one_sentence(jobs: JobService, monkeypatch: pytest.MonkeyPatch) -> None:
    waiting = jobs.new_run(latent=some_latent(2))
    with pytest.raises(ValueError, match=r"^This run has not ended: [^.\n]+\.$"):
        jobs.exports.start(waiting, "png")
    run = run_to_end(jobs, latent=some_latent(2))
    with pytest.raises(ValueError, match=r"^There is no format 'avi'; choose one of mp4, [^.\n]+\.$"):
        jobs.exports.start(run, "avi")
    with monkeypatch.context() as patch:
        patch.setattr(exports, "MAX_PER_OWNER", 0)
        with pytest.raises(ValueError, match=r"^0 files are being made already; [^.\n]+\.$"):
            jobs.exports.start(run, "png")
        patch.setattr(exports, "write_with_sound", lambda *_, **__: 1 / 0)
        patch.setattr(exports, "MAX_PER_OWNER", 1)
        export = make(jobs, run, "png")
        assert export.status == "failed" and export.message.startswith("clip-png.zip could not be made (Zero")
    assert run.input_path is not None
    run.input_path.unlink()
    with pytest.raises(
        ValueError, match=r"^The latent of this run is no longer there, [^.\n]+; run it again\.$"
    ):
        jobs.exports.start(run, "tiff")
    assert make(jobs, run, "png").status == "finished"
    run.frames.close()
    with pytest.raises(ValueError, match=r"^The frames of this run have been deleted; run it again\.$"):
        jobs.exports.start(run, "ffv1")


def test_files_are_granted_disk(jobs: JobService, monkeypatch: pytest.MonkeyPatch) -> None:
    run = run_to_end(jobs, latent=some_latent(2), name="a.pt")
    monkeypatch.setattr("wanvae_app.jobs.budget.free_disk", lambda folder: 2**20)
    with pytest.raises(ValueError, match=r"^a\.pt needs about 1\.1 MB of the server's disk, and [^\n]+\.$"):
        jobs.exports.start(run, "png")
    assert not run.exports and jobs.runs() == [run]
    # The file would fit, and its decode if the run itself were deleted.
    needed = find_output("tiff").num_bytes_bound(5, 32, 24) + written_bytes(run) + 10_000
    monkeypatch.setattr("wanvae_app.jobs.budget.free_disk", lambda folder: 2 * needed - written_bytes(run))
    with pytest.raises(
        ValueError, match=r"^a\.pt needs about 23 kB of the server's disk, and 10 kB are free"
    ):
        jobs.exports.start(run, "tiff")
    assert not run.exports and jobs.runs() == [run] and not run.frames.closed
    monkeypatch.undo()
    export = make(jobs, run, "png")
    assert export.num_bytes_to_come == 0 and export.num_bytes == export.path.stat().st_size
