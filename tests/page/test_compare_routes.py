"""The routes for exact frames and comparing: what they answer, to whom, and how much they compute."""

from __future__ import annotations

import io
from collections.abc import Iterator
from typing import Any

import httpx
import numpy as np
import pytest
from PIL import Image
from support.app_runner import wait_for
from support.page_server import Server, running_server, sentence
from support.tiny import some_latent, some_video

from wanvae_app.jobs.job_state import JobState
from wanvae_app.page import curves
from wanvae_app.page.borders import borders_of
from wanvae_app.page.entry import RunInput
from wanvae_app.page.frame_compare import colour_table, compare_frames


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with running_server(tmp_path_factory.mktemp("server")) as server:
        yield server


@pytest.fixture(scope="module")
def roundtrip(server: Server) -> JobState:
    return ended(server, source=some_video(5))


@pytest.fixture(scope="module")
def clip(server: Server) -> JobState:
    return ended(server, latent=some_latent(2))


def ended(server: Server, **options: Any) -> JobState:
    """Run something as the visitor; returns the run when it has ended."""
    run = server.jobs.new_run(owner=server.visitor.cookies["wanvae"], name="clip.pt", **options)
    entry = server.history.submit(run, RunInput(str(options)[:40]))
    wait_for(lambda: entry.settled, 30)
    return run


def picture(answer: httpx.Response) -> np.ndarray:
    assert answer.status_code == 200 and answer.headers["content-type"] == "image/png"
    return np.asarray(Image.open(io.BytesIO(answer.content)))


def test_frames_are_exact(server: Server, roundtrip: JobState) -> None:
    for query, log in (("", roundtrip.frames), ("?source=1", roundtrip.source)):
        assert log is not None
        answer = server.visitor.get(f"/live/{roundtrip.id}/frame/4.png{query}")
        assert np.array_equal(picture(answer), log.read(4, 5)[0])


def test_the_difference_is_a_picture_and_numbers(server: Server, roundtrip: JobState) -> None:
    assert roundtrip.source is not None
    a, b = roundtrip.frames.read(2, 3)[0], roundtrip.source.read(2, 3)[0]
    address = f"/compare/{roundtrip.id}/{roundtrip.id}.source/frame/2"
    found, numbers = compare_frames(a, b, None), server.visitor.get(address).json()
    assert numbers["max_abs"] == found.max_abs == numbers["elsewhere"] and numbers["on_borders"] is None
    assert (numbers["row"], numbers["column"], numbers["psnr"]) == (found.row, found.column, found.psnr)
    seen = picture(server.visitor.get(f"{address}.png?gain=2"))
    worst = np.abs(a.astype(int) - b).max(-1)
    assert np.array_equal(seen, colour_table()[np.minimum(2 * worst, 255)])
    assert picture(server.visitor.get(f"{address}.png?gain=64&channel=luma")).any()


def test_a_curve_is_computed_once_and_in_steps(
    server: Server, roundtrip: JobState, clip: JobState, monkeypatch: pytest.MonkeyPatch
) -> None:
    compared: list[int] = []

    def compare(*arguments: Any) -> Any:
        compared.append(1)
        return compare_frames(*arguments)

    monkeypatch.setattr(curves, "compare_frames", compare)
    monkeypatch.setattr("wanvae_app.page.compare_routes.STEP_SECONDS", 0.0)  # one frame for each question
    address = f"/compare/{roundtrip.id}/{roundtrip.id}.source/curve"
    answers = [server.visitor.get(f"{address}?start={start}").json() for start in range(5)]
    assert [len(answer["psnr"]) for answer in answers] == [1] * 5 and len(compared) == 5
    assert [answer["complete"] for answer in answers] == [False] * 4 + [True]
    again = server.visitor.get(address).json()
    assert again["psnr"] == [answer["psnr"][0] for answer in answers] and len(compared) == 5
    assert again["num_frames"] == 5 and len(again["elsewhere"]) == 5
    same = server.visitor.get(f"/compare/{clip.id}/{clip.id}/curve").json()
    assert same["psnr"] == ["inf"] and same["elsewhere"] == [0]


def test_borders_are_those_of_the_ranks(clip: JobState) -> None:
    assert borders_of(clip).positions == ()
    clip.num_ranks = 3  # as if three ranks had decoded its 4 x 3 latent
    try:
        assert borders_of(clip) == (True, (8, 16), 8)
        clip.num_ranks = 2
        assert borders_of(clip) == (False, (16,), 8)
    finally:
        clip.num_ranks = 1


def test_only_the_owner_compares(server: Server, clip: JobState) -> None:
    foreign = server.jobs.new_run(latent=some_latent(1), owner="somebody else", name="clip.pt")
    entry = server.history.submit(foreign, RunInput("foreign"))
    wait_for(lambda: entry.settled, 30)
    for address in (
        f"/live/{foreign.id}/frame/0.png",
        f"/compare/{clip.id}/{foreign.id}/frame/0.png",
        f"/compare/{foreign.id}.source/{clip.id}/curve",
        f"/compare/{clip.id}/unknown/frame/0",
    ):
        answer = server.visitor.get(address)
        assert answer.status_code == 404 and sentence(answer) == "There is no such run."
        assert server.stranger.get(address).status_code == 401


def test_what_cannot_be_asked(server: Server, clip: JobState, roundtrip: JobState) -> None:
    pair = f"/compare/{clip.id}/{clip.id}"
    small = ended(server, latent=some_latent(1, 2, 2))
    for address, status in (
        (f"/live/{clip.id}/frame/99.png", 404),
        (f"/live/{clip.id}/frame/-1.png", 400),
        (f"/live/{clip.id}/frame/{'9' * 5000}.png", 400),
        (f"/live/{clip.id}/frame/0.png?source=1", 404),  # it has none
        (f"{pair}/frame/0.png?gain=0", 400),
        (f"{pair}/frame/0.png?gain=65", 400),
        (f"{pair}/frame/0.png?gain=1e3", 400),
        (f"{pair}/frame/0.png?channel=hue", 400),
        (f"{pair}/curve?start=x", 400),
        (f"/compare/{clip.id}/{small.id}/curve", 400),
        (f"/compare/{clip.id}/{small.id}/frame/0.png", 400),
    ):
        answer = server.visitor.get(address)
        assert answer.status_code == status, address
        assert sentence(answer)


def test_a_clip_that_has_ended_says_how_long_it_is(server: Server, clip: JobState) -> None:
    count = len(clip.frames)
    assert sentence(server.visitor.get(f"/live/{clip.id}/frame/99.png")) == (
        f"There is no frame 99: the clip has {count} frames."
    )


def test_deleted_frames_are_told(server: Server, roundtrip: JobState) -> None:
    gone = ended(server, latent=some_latent(1, 4, 3))
    gone.frames.close()
    for address in (f"/live/{gone.id}/frame/0.png", f"/compare/{gone.id}/{roundtrip.id}/curve"):
        answer = server.visitor.get(address)
        assert answer.status_code == 410 and "deleted" in sentence(answer)


def test_curves_are_bounded(server: Server, clip: JobState, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(curves, "MAX_CURVES", 2)
    kept = curves.Curves()
    made = {
        kept.get(curves.Clip(f"{i}", clip, clip.frames), curves.Clip("b", clip, clip.frames))
        for i in range(4)
    }
    assert len(made) == 4 and len(kept._curves) == 2
