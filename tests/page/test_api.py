"""The app from a program, by gradio_client, and what a password covers."""

from __future__ import annotations

import http.client
import re
from collections.abc import Iterator
from pathlib import Path
from urllib.error import HTTPError
from urllib.request import urlopen

import imageio.v3 as iio
import pytest
from gradio_client import Client, handle_file
from support.app_runner import App, running_app, wait_for
from support.video_files import pattern

ROOT = Path(__file__).resolve().parents[2]
SAMPLE = ROOT / "assets" / "samples" / "Rolling marbles.safetensors"
AUTH = ("someone", "pass:word")


@pytest.fixture(scope="module")
def app(tmp_path_factory: pytest.TempPathFactory) -> Iterator[App]:
    log = tmp_path_factory.mktemp("api") / "log"
    with running_app(log, arguments=["--auth", ":".join(AUTH)]) as app:
        yield app


@pytest.fixture
def client(app: App, tmp_path: Path) -> Client:
    return Client(app.url, auth=AUTH, verbose=False, download_files=tmp_path)


def test_a_run_is_streamed(client: Client) -> None:
    job = client.submit(handle_file(SAMPLE), True, 1, "Auto", api_name="/run")
    updates = [state for state, *_ in job]
    last, video, latent = job.result()
    assert [update["job"] for update in updates] == [last["job"]] * len(updates)
    counts = [update["frames"] for update in updates]
    assert counts == sorted(counts) and counts[-1] == last["num_frames"] == 17
    assert any(0 < count < 17 for count in counts), "no update came while frames were being made"
    assert last["state"] == "finished" and last["ranks"] == 2 and last["elapsed"] > 0 and last["rate"] > 0
    assert Path(video).name == "Rolling marbles.mp4"
    assert iio.imread(video, plugin="FFMPEG").shape == (17, 256, 256, 3)
    assert latent is None


def test_runs_of_one_input_are_compared(client: Client) -> None:
    for parallel in (True, False):
        last, *_ = client.predict(handle_file(SAMPLE), parallel, 2, "Normalised", api_name="/run")
    assert last["comparison"]["max_abs"] <= 1 and last["comparison"]["speedup"] > 0
    assert [row["parallel"] for row in last["rows"]][-2:] == [True, False]


def test_some_frames_of_a_video(client: Client, tmp_path: Path) -> None:
    path = pattern(tmp_path / "a.mp4", "-c:v", "libx264", size="32x32", frames=20)
    last, video, _ = client.predict(handle_file(path), True, 1, frames="3-20/2", api_name="/run")
    assert last["num_frames"] == 9 and "Frames 3 to 20 are taken, one of every 2." in last["note"]
    assert iio.imread(video, plugin="FFMPEG").shape == (9, 32, 32, 3)


def test_a_wrong_file_is_an_error_in_one_sentence(client: Client, tmp_path: Path) -> None:
    wrong = tmp_path / "letter.safetensors"
    wrong.write_text("Dear Sir or Madam")
    with pytest.raises(Exception, match=r"letter\.safetensors") as failure:
        client.predict(handle_file(wrong), True, 1, "Auto", api_name="/run")
    assert "Traceback" not in str(failure.value)


def test_a_chunk_is_a_whole_number(client: Client) -> None:
    told = "2.5 latent frames per chunk is impossible; choose a whole number from 1 to 16."
    with pytest.raises(Exception, match=re.escape(told)):
        client.predict(handle_file(SAMPLE), True, 2.5, "Auto", api_name="/run")
    last, *_ = client.predict(handle_file(SAMPLE), True, 4.0, "Auto", api_name="/run")
    assert last["chunk"] == 4


def test_cancel_frees_the_ranks(app: App, client: Client) -> None:
    long = ROOT / "assets" / "samples" / "Bicycle at sunset.safetensors"
    job = client.submit(handle_file(long), True, 1, "Auto", api_name="/run")
    for state, *_ in job:
        if state["state"] == "running":
            break
    job.cancel()
    wait_for(lambda: f"job {state['job'][:8]}: " in app.log() and "stopped" in app.log(), 60, app)
    wait_for(lambda: (app.health() or {}).get("state") == "ready", 60, app)


def test_nothing_else_is_offered(client: Client) -> None:
    endpoints = client.view_api(return_format="dict")["named_endpoints"]
    assert list(endpoints) == ["/run"]
    names = [parameter["parameter_name"] for parameter in endpoints["/run"]["parameters"]]
    assert names == [
        "file",
        "parallel",
        "chunk",
        "scaling",
        "vae",
        "frames",
        "part",
        "order",
        "latent_format",
    ]


def test_the_password_covers_the_runs(app: App, client: Client) -> None:
    last, *_ = client.predict(handle_file(SAMPLE), True, 4, "Auto", api_name="/run")
    for path in ("", "/state", "/video.mp4", "/latent.safetensors"):
        with pytest.raises(HTTPError) as refusal:
            urlopen(f"{app.url}/live/{last['job']}{path}")
        assert refusal.value.code == 401
    post = http.client.HTTPConnection("127.0.0.1", app.port, timeout=10)
    post.request("POST", f"/live/{last['job']}/stop")
    assert post.getresponse().status == 401
    with pytest.raises(HTTPError):
        urlopen(f"{app.url}/gradio_api/info")
    assert app.health()["state"] in ("ready", "busy")  # for those who run it as a service
