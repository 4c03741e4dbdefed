"""Uploads and the page's files on a server that is full: one sentence, nothing left, and it works again."""

from __future__ import annotations

import errno
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
import torch
from gradio import processing_utils
from gradio.utils import get_upload_folder
from support.app_runner import wait_for
from support.page_server import Server, running_server

from wanvae_app.assets import SAMPLES
from wanvae_app.page import upload_room as module

SAMPLE = SAMPLES / "Fish pond.mp4"


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    folder = tmp_path_factory.mktemp("server")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("GRADIO_TEMP_DIR", str(folder / "uploads"))
        with running_server(folder) as server:
            yield server


@pytest.fixture
def uploads() -> Path:
    return Path(get_upload_folder())


def upload(server: Server, content: bytes, name: str = "a.pt") -> httpx.Response:
    return server.visitor.post("/gradio_api/upload", files={"files": (name, content)})


def files(folder: Path) -> set[Path]:
    return {path for path in folder.rglob("*") if path.is_file()}


def test_an_equal_upload_takes_no_second_place(server: Server, uploads: Path) -> None:
    (path,) = upload(server, b"content").json()
    assert upload(server, b"content").json() == [path]
    assert files(uploads) == {Path(path)} and Path(path).read_bytes() == b"content"
    assert list(uploads.glob("part-*")) == []


def test_uploads_that_cannot_be_kept_are_refused_in_numbers(
    server: Server, uploads: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = files(uploads)
    room = 4_000_000
    kept = [Path(path) for path in upload(server, b"1" * 400_000).json()]

    def free_disk(folder: Path) -> int:
        return room - sum(path.stat().st_size for path in kept if path.exists())

    monkeypatch.setattr(module, "free_disk", free_disk)
    answer = upload(server, b"2" * 1_600_000)
    assert answer.status_code == 400 and answer.text.startswith(
        "This upload has 1.6 MB, and 1.0 MB are free for"
    )
    assert kept[0].exists(), "nothing is deleted in vain"
    kept += [Path(path) for path in upload(server, b"3" * 800_000).json()]
    assert [path.exists() for path in kept] == [False, True], "the visitor's oldest goes first"
    assert upload(server, b"4").status_code == 200
    assert server.stranger.post("/gradio_api/upload").status_code == 401
    answer = server.visitor.post(
        "/gradio_api/upload",
        content=iter([b"--b"]),
        headers={"Content-Type": "multipart/form-data; boundary=b"},
    )
    assert (answer.status_code, answer.text) == (400, "An upload must state its length.")
    for path in files(uploads) - before:
        path.unlink()


def test_a_visitor_has_a_limited_number_of_uploads(
    server: Server, uploads: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "MAX_FILES", 3)
    paths = [Path(upload(server, bytes([65 + i])).json()[0]) for i in range(5)]
    assert [path.exists() for path in paths] == [False, False, True, True, True]
    monkeypatch.setattr(module, "MAX_ALL_FILES", 1)
    upload(server, b"the last")
    assert not any(path.exists() for path in paths)


@pytest.mark.parametrize(
    "part",
    ['name="files"', 'name="other"', 'name="other"; filename="a.pt"', 'filename="a.pt"', ""],
)
def test_a_malformed_upload_is_one_sentence_and_leaves_nothing(
    server: Server, uploads: Path, part: str
) -> None:
    before = files(uploads)
    content = f"--b\r\nContent-Disposition: form-data; {part}\r\n\r\ncontent\r\n--b--\r\n".encode()
    for body in (content, content[:60], b"", b"--c"):
        answer = server.visitor.post(
            "/gradio_api/upload?upload_id=some",
            content=body,
            headers={"Content-Type": "multipart/form-data; boundary=b"},
        )
        assert answer.status_code in (200, 400), answer.text
        assert answer.text == "[]" or answer.text.count(".") <= 2, answer.text
    assert files(uploads) == before and list(uploads.glob("part-*")) == []


def test_an_upload_of_a_queued_run_is_not_deleted(
    server: Server, uploads: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from wanvae_app.page.upload import make_run

    (path,) = upload(server, b"1" * 400_000).json()
    run, _ = make_run(server.jobs, Path(path), parallel=True, chunk=1, scaling="Auto", owner="ann")
    monkeypatch.setattr(server.jobs, "runs", lambda: [run])
    monkeypatch.setattr(module, "free_disk", lambda folder: 1_600_000)
    assert upload(server, b"2" * 400_000).status_code == 400
    assert Path(path).exists()
    Path(path).unlink()


@pytest.mark.parametrize("place", ["write", "mkdir"])
def test_an_upload_on_a_full_disk_is_one_sentence(
    server: Server, uploads: Path, monkeypatch: pytest.MonkeyPatch, place: str
) -> None:
    before = files(uploads)

    def full(*_: Any, **__: Any) -> Any:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(uploads / "x"))

    with monkeypatch.context() as patch:
        if place == "write":
            patch.setattr(tempfile, "_get_candidate_names", full)  # no temporary file can be made
        else:
            patch.setattr(Path, "mkdir", full)
        answer = upload(server, b"content of a full disk")
    assert answer.status_code == 400
    assert (
        answer.text == "This upload needs more disk than the server has left; try again when there is room."
    )
    assert files(uploads) == before and list(uploads.glob("part-*")) == []
    assert upload(server, b"content of a full disk").status_code == 200


def test_a_sample_is_chosen_and_run_on_a_full_disk(
    server: Server, uploads: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: Any, **__: Any) -> Any:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    before = files(uploads)
    monkeypatch.setattr(processing_utils, "save_file_to_cache", full)
    data = {"data": [{"path": str(SAMPLE), "meta": {"_type": "gradio.FileData"}}, True, 1, "Auto"]}
    assert server.visitor.post("/gradio_api/call/run", json=data).status_code == 200
    wait_for(lambda: [run for run in server.jobs.runs() if run.name == SAMPLE.name and run.is_read], 20)
    server.jobs.runs()[-1].stop()
    assert files(uploads) == before, "a sample is run from where it lies"


def test_a_run_from_a_program_leaves_no_copy_and_no_empty_file(server: Server, uploads: Path) -> None:
    before = files(uploads)
    latent = torch.randn(1, 16, 1, 4, 3)
    path = uploads.parent / "latent.pt"
    torch.save(latent, path)
    (given,) = upload(server, path.read_bytes(), "latent.pt").json()
    answer = server.call({"path": given, "meta": {"_type": "gradio.FileData"}})
    run = server.jobs.runs()[-1]
    assert run.video_path is not None and run.id in answer and run.published is not None
    link = run.published / "latent.mp4"  # named after the input
    assert files(uploads) - before == {Path(given), link}
    assert link.stat().st_ino == run.video_path.stat().st_ino, "a link, which takes no disk"
    answered = server.visitor.get(f"/gradio_api/file={link}")
    assert answered.status_code == 200 and len(answered.content) == run.video_path.stat().st_size
    server.jobs.store.delete(run)
    assert files(uploads) - before == {Path(given)}


def test_what_an_earlier_process_left_unfinished_is_deleted(server: Server, uploads: Path) -> None:
    part = uploads / "part-0123" / "hash"
    part.mkdir(parents=True)
    module.UploadRoom(server.jobs).install()
    assert not part.parent.exists()
    wait_for(lambda: upload(server, b"content").status_code == 200, 5)
