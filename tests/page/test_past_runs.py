"""Runs in the archive: the same as fresh ones, bit for bit, for the visitor who started them and nobody else."""

from __future__ import annotations

import contextlib
import secrets
from collections.abc import Iterator
from pathlib import Path

import httpx
import numpy as np
import pytest
from support.app_runner import wait_for
from support.page_server import Server, frame_indices, running_server, sentence
from support.tiny import some_latent, some_video

from wanvae_app.formats import lossless
from wanvae_app.frame_log import FrameLog
from wanvae_app.jobs.archive import Archive
from wanvae_app.jobs.job_state import Status
from wanvae_app.page import archived_entry
from wanvae_app.page.archived_entry import owner_key
from wanvae_app.page.entry import HistoryEntry, RunInput

SIZE = 10**8


@contextlib.contextmanager
def started(folder: Path, max_bytes: int = SIZE, cookie: str | None = None) -> Iterator[Server]:
    """The page with the archive in `folder`; its visitor has this cookie."""
    with running_server(folder, Archive(folder / "archive", max_bytes)) as server:
        if cookie is not None:
            server.visitor.cookies.delete("wanvae")
            server.visitor.cookies.set("wanvae", cookie)
        yield server


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with started(tmp_path_factory.mktemp("server")) as server:
        yield server


@pytest.fixture
def server(shared: Server) -> Server:
    """A server whose visitor has no runs yet."""
    shared.visitor.cookies.delete("wanvae")
    shared.visitor.cookies.set("wanvae", secrets.token_urlsafe(24))
    return shared


def parts(server: Server) -> list[Path]:
    """The folders in the archive of runs of this server's visitor, and all parts of runs."""
    archive = server.history.past._archive
    assert archive is not None
    own = [run.folder for run in archive.runs(owner_key(server.visitor.cookies["wanvae"]))]
    return [*own, *archive.folder.glob("part-*")]


def keep(server: Server, source: FrameLog | None = None, digest: str = "input") -> HistoryEntry:
    """Run something as the visitor; wait until it is archived."""
    run = server.jobs.new_run(
        latent=None if source else some_latent(2),
        source=source,
        owner=server.visitor.cookies["wanvae"],
        name="a.pt",
    )
    entry = server.history.submit(run, RunInput(digest, "raw", "A note."))
    wait_for(lambda: entry.settled and not run.is_pinned, 30)
    return entry


def listed(client: httpx.Client) -> list[dict[str, object]]:
    return client.get("/runs").json()["runs"]


def without_time(state: dict[str, object]) -> dict[str, object]:
    """A run's state but for numbers that a sum of times rounds anew."""
    return {name: value for name, value in state.items() if name not in ("elapsed", "first", "rate", "rows")}


def test_a_past_run_is_the_same_as_a_fresh_one(tmp_path: Path) -> None:
    with started(tmp_path) as server:
        entry = keep(server, some_video(5))
        frames, source = entry.run.frames.read(0, 5), entry.run.source.read(0, 5)
        state = server.visitor.get(f"/live/{entry.run.id}/state").json()
        (before,) = listed(server.visitor)
        assert before["frames_available"] and before["source"] and before["psnr"] and not before["problem"]
        cookie = server.visitor.cookies["wanvae"]
    with started(tmp_path, cookie=cookie) as server:
        (after,) = listed(server.visitor)
        for name in ("seconds", "first", "rate", "created"):
            assert after.pop(name) == pytest.approx(before.pop(name))
        assert after == before
        again = server.history.get(entry.run.id, cookie)
        assert again is not None and again.run.frames.num_bytes == 0, "nothing is decoded until it is read"
        assert np.array_equal(again.run.frames.read(0, 5), frames)
        assert again.run.source is not None and np.array_equal(again.run.source.read(0, 5), source)
        assert frame_indices(server.visitor.get(f"/live/{again.run.id}?view=source&start=2").content) == [
            2,
            3,
            4,
        ]
        opened = server.visitor.get(f"/live/{again.run.id}/state").json()
        assert without_time(opened) == without_time(state) and opened["latent_file"]
        assert [row["id"] for row in opened["rows"]] == [again.run.id]
        assert server.visitor.get(f"/live/{again.run.id}/latent.safetensors").status_code == 200
        next_one = keep(server)
        assert next_one.number == 2 and [row["number"] for row in server.history.rows(next_one)] == [1, 2]
        assert [run["number"] for run in listed(server.visitor)] == [2, 1]


def test_freed_frames_are_decoded_again(server: Server) -> None:
    entry = keep(server)
    frames = entry.run.frames.read(0, 5)
    for _ in range(2):
        server.jobs.store.delete(entry.run)
        opened = server.history.get(entry.run.id, entry.run.owner)
        assert opened is not None and opened is not entry
        assert np.array_equal(opened.run.frames.read(0, 5), frames)
        entry = opened


def test_a_stopped_run_is_kept_and_has_an_mp4(server: Server) -> None:
    run = server.jobs.new_run(latent=some_latent(40), owner=server.visitor.cookies["wanvae"], name="a.pt")
    entry = server.history.submit(run, RunInput("input"))
    wait_for(lambda: len(run.frames) > 4, 30)
    server.visitor.post(f"/live/{run.id}/stop")
    assert (
        sentence(server.visitor.delete(f"/runs/{run.id}")).startswith("Stop this run first") or entry.settled
    )
    wait_for(lambda: entry.settled and not run.is_pinned, 30)
    num_frames = len(run.frames)
    assert run.status == Status.STOPPED and 4 < num_frames < 157
    assert run.message == f"Stopped after {num_frames} of 157 frames."
    assert server.visitor.get(f"/live/{run.id}/video.mp4").content[4:8] == b"ftyp"
    frames = run.frames.read(0, num_frames)
    server.jobs.store.delete(run)
    opened = server.history.get(run.id, run.owner)
    assert opened is not None and opened.run.status == Status.STOPPED
    assert np.array_equal(opened.run.frames.read(0, num_frames), frames)
    assert server.visitor.get(f"/live/{run.id}/video.mp4").content[4:8] == b"ftyp"


def test_a_run_that_is_deleted_is_gone(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    entry = keep(server)
    path = f"/runs/{entry.run.id}"
    foreign = {"Origin": "https://elsewhere.example"}
    assert server.visitor.delete(path, headers=foreign).status_code == 403
    assert server.visitor.get(path).status_code == 405
    assert server.stranger.delete(path).status_code == 401
    assert len(listed(server.visitor)) == 1
    assert server.visitor.delete(path).status_code == 200
    assert listed(server.visitor) == [] and server.history.rows(entry) == []
    assert server.visitor.delete(path).status_code == 404

    original = archived_entry.write_lossless  # deleted while it is written

    def write_and_delete(frames: FrameLog, path: Path) -> str:
        digest = original(frames, path)
        (run,) = listed(server.visitor)
        assert server.visitor.delete(f"/runs/{run['id']}").status_code == 200
        return digest

    monkeypatch.setattr(archived_entry, "write_lossless", write_and_delete)
    keep(server)
    assert listed(server.visitor) == [] and not parts(server)


def test_what_cannot_be_kept_is_said_and_costs_nothing_else(
    server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    archive = server.history.past._archive
    assert archive is not None
    monkeypatch.setattr(archive, "max_bytes", 100)
    entry = keep(server)
    (run,) = listed(server.visitor)
    assert run["problem"] == entry.problem and "--history allows 0 kB" in entry.problem
    assert run["state"] == "finished" and run["frames_available"]
    assert frame_indices(server.visitor.get(f"/live/{entry.run.id}").content) == [0, 1, 2, 3, 4]
    monkeypatch.setattr(lossless, "GROWTH", 0)  # the system refuses to write more, as on a full disk
    monkeypatch.setattr(lossless, "OVERHEAD", 1024)
    assert "ffmpeg could not write frames.mkv" in keep(server).problem and not parts(server)
    monkeypatch.setattr(archived_entry, "free_disk", lambda folder: 0)
    assert "no room for the history" in keep(server).problem


def test_a_programs_runs_are_not_archived(server: Server) -> None:
    assert owner_key("") == owner_key("session abc") == "" and len(owner_key("abc")) == 64
    run = server.jobs.new_run(latent=some_latent(2), owner="session abc", name="a.pt")
    entry = server.history.submit(run, RunInput("input"))
    wait_for(lambda: entry.settled, 30)
    assert not run.is_pinned and listed(server.visitor) == [] and not server.history.past.has(run.id)


def test_runs_that_are_named_count_as_watched(server: Server) -> None:
    entry = keep(server)
    entry.run.last_seen = 0.0
    server.visitor.get("/runs")
    assert entry.run.last_seen == 0.0
    server.visitor.get(f"/runs?seen=other,{entry.run.id}")
    assert entry.run.last_seen > 0.0


def test_a_past_run_that_cannot_be_read_is_skipped(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with started(tmp_path) as server:
        entry = keep(server)
        cookie = server.visitor.cookies["wanvae"]
    facts = tmp_path / "archive" / f"run-{entry.run.id}" / "run.json"
    facts.write_text(facts.read_text().replace('"num_frames": 5', '"num_frames": "five"'))
    with started(tmp_path, cookie=cookie) as server:
        assert listed(server.visitor) == listed(server.visitor) == []
        assert server.visitor.get(f"/live/{entry.run.id}").status_code == 404
    assert [r.message for r in caplog.records if "skipped" in r.message] == [
        f"run {entry.run.id[:8]} of the history is skipped: TypeError: num_frames is a str"
    ]
