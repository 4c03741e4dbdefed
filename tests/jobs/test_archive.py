"""The archive: bounded, shared by several apps, and unimpressed by what else lies in its folder."""

from __future__ import annotations

import os
import threading
from pathlib import Path

import pytest
from support.app_runner import wait_for

from wanvae_app.jobs import archive as archive_module
from wanvae_app.jobs.archive import Archive


def add(archive: Archive, name: str, created_at: float, num_bytes: int = 1000, owner: str = "ann") -> None:
    facts = {"job": {"id": name}, "owner": owner, "created_at": created_at}
    with archive.new_run(name, facts) as folder:
        (folder / "frames.mkv").write_bytes(b"x" * num_bytes)


def names(archive: Archive, owner: str | None = None) -> list[str]:
    return [run.id for run in archive.runs(owner)]


@pytest.fixture
def archive(tmp_path: Path) -> Archive:
    return Archive(tmp_path / "cache" / "history", 10_000)


def test_runs_are_there_for_the_next_archive(archive: Archive) -> None:
    for number, owner in ((2, "ann"), (1, "bob"), (3, "ann")):
        add(archive, f"r{number}", number, owner=owner)
    again = Archive(archive.folder, 10_000)
    assert names(again) == ["r1", "r2", "r3"] and names(again, "ann") == ["r2", "r3"]
    found = again.get("r2")
    assert found is not None and (found.folder / "frames.mkv").read_bytes() == b"x" * 1000
    assert archive.folder.stat().st_mode & 0o777 == 0o700
    archive.delete("r2")
    archive.delete("r2")
    assert archive.get("r2") is None and names(archive) == ["r1", "r3"]


def test_the_oldest_make_room(archive: Archive, monkeypatch: pytest.MonkeyPatch) -> None:
    for number in range(4):
        add(archive, f"r{number}", number, 3000)
    assert names(archive) == ["r1", "r2", "r3"]
    with pytest.raises(OSError, match="it takes 20 kB, and --history allows 10 kB"):
        add(archive, "large", 9, 20_000)
    assert names(archive) == ["r1", "r2", "r3"], "what cannot be kept costs nothing else"
    monkeypatch.setattr(archive_module, "MAX_RUNS", 2)
    add(archive, "r4", 4, 10)
    assert names(archive) == ["r3", "r4"]
    assert names(Archive(archive.folder, 1000)) == ["r4"], "a smaller size holds from the start on"


def test_nothing_is_left_of_a_run_that_could_not_be_written(archive: Archive) -> None:
    with pytest.raises(OSError, match="full"), archive.new_run("r1", {}):
        raise OSError("the disk is full")
    assert names(archive) == [] and {path.name for path in archive.folder.iterdir()} == {"lock"}


@pytest.mark.parametrize(
    "facts",
    [
        None,
        "",
        "{",
        "[]",
        "{}",
        '{"job": {"id": "other"}, "owner": "ann", "created_at": 1}',
        '{"job": {"id": "bad"}, "owner": 1, "created_at": 1}',
        '{"job": {"id": "bad"}, "owner": "ann", "created_at": NaN}',
        '{"job": {"id": "bad"}, "owner": "ann", "created_at": "soon"}',
        "[" * 100_000,
    ],
)
def test_what_is_no_run_is_skipped_with_one_sentence(
    archive: Archive, facts: str | None, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    add(archive, "good", 1)
    monkeypatch.setattr(archive_module, "LOOK_SECONDS", 0)
    bad = archive.folder / "run-bad"
    bad.mkdir()
    if facts is not None:
        (bad / "run.json").write_text(facts)
    assert names(archive) == names(archive) == ["good"]
    assert [record.levelname for record in caplog.records] == ["WARNING"]
    assert bad.exists(), "it is not ours to delete"


def test_foreign_files_are_skipped(
    archive: Archive, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    add(archive, "good", 1)
    (archive.folder / "letter.txt").write_text("Dear Sir or Madam")
    (archive.folder / "run-link").symlink_to(archive.folder / "run-good")
    (archive.folder / "run-a.b").mkdir()
    again = Archive(archive.folder, 10_000)
    assert names(again) == ["good"]
    assert len(caplog.records) == 3 and "letter.txt" in caplog.text


def test_a_folder_that_others_can_enter_is_refused(tmp_path: Path) -> None:
    (tmp_path / "open").mkdir(mode=0o755)
    (tmp_path / "link").symlink_to(tmp_path)
    (tmp_path / "file").touch()
    for name in ("open", "link", "file"):
        with pytest.raises(OSError, match=r"cannot be made|you alone"):
            Archive(tmp_path / name, 1000)


def test_two_archives_share_a_folder(archive: Archive, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(archive_module, "LOOK_SECONDS", 0)
    other = Archive(archive.folder, 10_000)
    add(other, "theirs", 1)
    assert names(archive) == ["theirs"]
    with archive.new_run("mine", {"job": {"id": "mine"}, "owner": "ann", "created_at": 2}) as folder:
        (folder / "frames.mkv").write_bytes(b"x")
        add(other, "more", 3)  # deletes what is abandoned
        Archive(archive.folder, 10_000)
        assert (folder / "frames.mkv").exists()
    assert names(other) == names(archive) == ["theirs", "mine", "more"]
    archive.delete("theirs")
    assert names(other) == ["mine", "more"]
    threads = [
        threading.Thread(target=add, args=(a, f"{i}-{j}", 10 + i, 2000))
        for i in range(4)
        for j, a in enumerate((archive, other))
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    total = sum(run.num_bytes for run in archive.runs())
    assert total <= 10_000 and names(archive) == names(other) and len(names(archive)) == 4


def test_what_a_killed_app_has_left_is_deleted(archive: Archive) -> None:
    if os.fork() == 0:  # a process that dies while it writes
        with archive.new_run("never", {}) as folder:
            (folder / "frames.mkv").write_bytes(b"x")
            os._exit(0)
    os.wait()
    assert len(list(archive.folder.glob("part-*"))) == 1
    Archive(archive.folder, 10_000)
    wait_for(lambda: not list(archive.folder.glob("part-*")), 5)


def test_a_lock_that_another_app_keeps_is_no_reason_to_hang(
    archive: Archive, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(archive_module, "LOCK_SECONDS", 0.1)
    with archive._exclusive(), pytest.raises(OSError, match="keeps the history locked"):
        add(archive, "r1", 1)
