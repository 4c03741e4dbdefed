"""Files of other formats through the page's routes: made, fetched, stopped and refused; with the sound of a video."""

from __future__ import annotations

import io
import zipfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from support.app_runner import wait_for
from support.page_server import Server, running_server, sentence
from support.video_files import ffmpeg

from wanvae_app.formats.outputs import OUTPUTS
from wanvae_app.jobs.job_state import JobState
from wanvae_app.page.upload import make_run


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with running_server(tmp_path_factory.mktemp("exports")) as server:
        yield server


@pytest.fixture(scope="module")
def run(server: Server) -> JobState:
    return server.finish(num_latents=2)


def exported(server: Server, run: JobState, name: str) -> dict:
    """Ask for a file; return what its route tells at the end."""
    assert server.visitor.post(f"/live/{run.id}/exports/{name}").status_code == 200
    wait_for(lambda: told(server, run, name)["state"] not in ("waiting", "decoding", "writing"), 30)
    return told(server, run, name)


def told(server: Server, run: JobState, name: str) -> dict:
    formats = server.visitor.get(f"/live/{run.id}/exports").json()["formats"]
    return next(each for each in formats if each["name"] == name)["export"]


def test_the_formats_are_listed(server: Server, run: JobState) -> None:
    formats = server.visitor.get(f"/live/{run.id}/exports").json()["formats"]
    assert [each["name"] for each in formats] == [output.name for output in OUTPUTS]
    assert all(each["players"] and each["purpose"] and each["bit_depth"] for each in formats)


def test_a_file_is_made_and_fetched(server: Server, run: JobState) -> None:
    assert server.visitor.get(f"/live/{run.id}/exports/png/file").status_code == 404
    state = exported(server, run, "png")
    assert (state["state"], state["progress"], state["name"]) == ("finished", 1, "clip-png.zip"), state
    answer = server.visitor.get(f"/live/{run.id}/exports/png/file")
    assert 'filename="clip-png.zip"' in answer.headers["content-disposition"]
    assert len(answer.content) == state["bytes"]
    with zipfile.ZipFile(io.BytesIO(answer.content)) as archive:
        frames = [np.asarray(Image.open(io.BytesIO(archive.read(name)))) for name in archive.namelist()]
    assert np.array_equal(np.stack(frames), run.frames.read(0, 5))
    assert exported(server, run, "exr")["state"] == "finished"


def test_refusals_are_one_sentence(server: Server, run: JobState) -> None:
    for method, path in (("GET", ""), ("POST", "/png"), ("DELETE", "/png"), ("GET", "/png/file")):
        address = f"/live/{run.id}/exports{path}"
        assert server.stranger.request(method, address).status_code == 401
        cookies = server.visitor.cookies
        other = {name: value for name, value in cookies.items() if name != "wanvae"} | {"wanvae": "another"}
        header = "; ".join(f"{name}={value}" for name, value in other.items())
        answer = server.stranger.request(method, address, headers={"Cookie": header})
        assert answer.status_code == 404 and sentence(answer)
    answer = server.visitor.post(f"/live/{run.id}/exports/avi")
    assert answer.status_code == 409 and sentence(answer).startswith(
        "There is no format 'avi'; choose one of"
    )
    assert server.visitor.delete(f"/live/{run.id}/exports/avi").status_code == 200


def test_a_file_is_stopped(server: Server) -> None:
    entry = server.start(num_latents=13)
    answer = server.visitor.post(f"/live/{entry.run.id}/exports/h265")
    assert answer.status_code == 409 and sentence(answer).startswith("This run has not ended: ")
    wait_for(lambda: entry.settled, 60)
    assert server.visitor.post(f"/live/{entry.run.id}/exports/h265").json()["state"] in (
        "decoding",
        "waiting",
    )
    server.visitor.delete(f"/live/{entry.run.id}/exports/h265")
    wait_for(lambda: told(server, entry.run, "h265")["state"] == "stopped", 30)


def test_sound_stays(server: Server, tmp_path: Path) -> None:
    """A roundtrip's MP4, and the files that are made of it later, have the sound of the source."""
    video = tmp_path / "film.mp4"
    ffmpeg(
        "-f", "lavfi", "-i", "testsrc2=s=48x32:r=10:d=0.5", "-f", "lavfi", "-i", "sine=880:d=0.5",
        "-c:v", "libx264", "-c:a", "aac", video,
    )  # fmt: skip
    owner = server.visitor.cookies["wanvae"]
    run, run_input = make_run(server.jobs, video, parallel=True, chunk=1, scaling="Auto", owner=owner)
    entry = server.history.submit(run, run_input)
    wait_for(lambda: entry.settled, 60)
    assert run.message == "Finished." and exported(server, run, "prores")["state"] == "finished"
    run.sound = None  # a run of an earlier start has its sound in its MP4
    assert exported(server, run, "ffv1")["state"] == "finished"
    for address in ("video.mp4", "exports/prores/file", "exports/ffv1/file"):
        path = tmp_path / "fetched"
        path.write_bytes(server.visitor.get(f"/live/{run.id}/{address}").content)
        raw = tmp_path / "sound.raw"
        ffmpeg("-i", path, "-map", "0:a", "-c:a", "pcm_s16le", "-ac", "1", "-ar", "44100", "-f", "s16le", raw)
        wave = np.frombuffer(raw.read_bytes(), "<i2").astype(float)
        assert 0.45 * 44100 <= len(wave) <= 0.58 * 44100
        spectrum = np.abs(np.fft.rfft(wave[4410:17640]))
        assert abs(spectrum.argmax() * 44100 / 13230 - 880) < 5
