"""Numbered pictures that are uploaded together become one run; so do some frames of a video."""

from __future__ import annotations

import gc
import json
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from gradio.utils import get_upload_folder
from PIL import Image
from support.app_runner import wait_for
from support.tiny import tiny_vae
from support.video_files import pattern

from wanvae_app.jobs.service import JobService
from wanvae_app.page.auth import COOKIE
from wanvae_app.page.handlers import EventHandlers
from wanvae_app.page.history import History
from wanvae_app.page.picture_clips import MAX_PICTURES, are_one_clip, is_joined, join_pictures
from wanvae_app.page.upload import check_upload
from wanvae_app.page.upload_room import MAX_FILES
from wanvae_app.parallel.process_group import Group

REQUEST: Any = SimpleNamespace(cookies={COOKIE: "ann"}, client=None)


@pytest.fixture
def handlers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[EventHandlers]:
    """The page's handlers over a service that decodes nothing: its jobs thread is not started."""
    monkeypatch.setenv("GRADIO_TEMP_DIR", str(tmp_path / "uploads"))
    jobs = JobService(Group(0, 1, torch.device("cpu")), tiny_vae(), tmp_path / "runs")
    jobs.start = lambda: None  # type: ignore[method-assign]
    yield EventHandlers(jobs, History(jobs), [])
    jobs.close()


def upload(folder: Path, *names: str) -> list[str]:
    """Write pictures as Gradio does, each into a folder of its own; return their paths."""
    files = []
    for number, name in enumerate(names):
        path = folder / "uploads" / f"{number:064x}" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (24, 16), (min(255, 20 * int("".join(filter(str.isdigit, name)) or 0)), 0, 0)).save(
            path, "PNG"
        )
        files.append(str(path))
    return files


def started(handlers: EventHandlers, files: list[str], frames: str = "") -> list[str]:
    """Start runs for the files; return their ids, or the error as a single word."""
    *_, message = map(json.loads, handlers.start(files, True, 1, "Auto", "", frames, "", REQUEST))
    return message.get("jobs") or [message["error"]]


def joined() -> list[Path]:
    return [path for path in Path(get_upload_folder()).glob("*/*") if is_joined(path)]


@pytest.mark.parametrize(
    ("names", "expected"),
    [
        (["f_9.png", "f_10.png", "f_8.png"], True),
        (["0001.PNG", "0002.png"], True),
        (["f_1.png"], False),
        (["f_1.png", "f_3.png"], False),  # some of a camera's photos
        (["f_1.png", "g_2.png"], False),
        (["f_1.png", "f_2.webm"], False),
        (["f_1.png", "f_01.png"], False),
        (["a.png", "b.png"], False),
    ],
)
def test_which_pictures_are_one_clip(tmp_path: Path, names: list[str], expected: bool) -> None:
    assert are_one_clip(upload(tmp_path, *names)) is expected


def test_numbered_pictures_are_one_run(handlers: EventHandlers, tmp_path: Path) -> None:
    """They are linked in their order, described as what they are, and the links go when they are read."""
    files = upload(tmp_path, *(f"f_{number}.png" for number in (9, 10, 11, 12, 8)))
    text = handlers.describe(files, "")
    assert text.startswith("<p>5 pictures as a clip, 24x16 pixels: it will be encoded") and not joined()
    (run_id,) = started(handlers, files)
    run = handlers.jobs.get(run_id)
    assert run is not None and run.name == "f_8 to f_12.png"
    wait_for(lambda: run.is_read or run.ended, 20)
    assert run.source is not None
    assert run.source.read(0, 5)[:, 0, 0, 0].tolist() == [160, 180, 200, 220, 240]
    gc.collect()
    wait_for(lambda: not joined(), 5)
    assert len(started(handlers, upload(tmp_path, "a.png", "b.png"))) == 2, "others are a run each"


def test_a_refusal_leaves_no_links(handlers: EventHandlers, tmp_path: Path) -> None:
    files = upload(tmp_path, "f_1.png", "f_2.png")
    (error,) = started(handlers, files, frames="2-1")
    assert error.startswith("'2-1' ends before it begins") and not joined()


def test_more_pictures_than_uploads_are_kept(handlers: EventHandlers, tmp_path: Path) -> None:
    assert MAX_PICTURES == MAX_FILES
    files = upload(tmp_path, *(f"f_{number}.png" for number in range(65)))
    sentence = "65 pictures are more than 64; put them into a .zip, and upload that."
    assert started(handlers, files) == [sentence] and sentence in handlers.describe(files, "")
    Path(files[0]).unlink()
    sentence = "An uploaded picture is no longer on the server; upload them again."
    assert started(handlers, files[:9]) == [sentence] and sentence in handlers.describe(files[:9], "")
    assert not joined()


def test_visitors_name_no_folder(handlers: EventHandlers, tmp_path: Path) -> None:
    """A folder of the server is neither read nor deleted, whatever path a request states."""
    (file,) = upload(tmp_path, "f_1.png")
    for path in (Path(file).parent, Path(get_upload_folder()), tmp_path):
        with pytest.raises(ValueError, match="no longer on the server"):
            check_upload(path)
        assert started(handlers, [str(path)]) == [
            "The uploaded file is no longer on the server; upload it again."
        ]
        assert "no longer on the server" in handlers.describe([str(path)], "")
    assert Path(file).is_file()
    folder = join_pictures(upload(tmp_path, "f_1.png", "f_2.png"))
    check_upload(folder)


def test_some_frames_of_a_video(handlers: EventHandlers, tmp_path: Path) -> None:
    """Runs of other frames are not compared with it."""
    path = str(pattern(tmp_path / "a.mp4", "-c:v", "libx264", frames=20))
    runs = [handlers.jobs.get(started(handlers, [path], frames)[0]) for frames in ("", "3-11", "3-11/2")]
    wait_for(lambda: all(run is not None and (run.is_read or run.ended) for run in runs), 20)
    assert [len(run.source or ()) for run in runs if run is not None] == [17, 9, 5]
    entries = [handlers.history.find(run.id, "ann") for run in runs if run is not None]
    digests = {entry.input.digest for entry in entries if entry is not None}
    assert len(digests) == 3
    assert "Frames 3 to 11 are taken." in handlers.describe([path], "", "3-11")
    assert "is no range of frames" in handlers.describe([path], "", "x")
