"""The temporary folder of one process: kept after a restart, emptied otherwise, and closed to other users."""

from __future__ import annotations

import os
import stat
import subprocess
import tempfile
from pathlib import Path

import pytest

from wanvae_app.jobs import private_folder as module
from wanvae_app.jobs.private_folder import private_folder


def test_a_private_folder_is_kept_on_request_and_those_of_dead_processes_are_deleted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    ended = subprocess.Popen(["true"])
    ended.wait()
    left_over = tmp_path / f"wanvae-{os.getuid()}-{ended.pid}"
    left_over.mkdir()
    folder = private_folder(os.getpid(), keep=False)
    (folder / "run").mkdir()
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700 and not left_over.exists()
    assert private_folder(os.getpid(), keep=True) == folder and (folder / "run").exists()
    assert private_folder(os.getpid(), keep=False) == folder and not (folder / "run").exists()


def test_a_folder_that_others_can_write_to_is_not_used(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    trap = tmp_path / f"wanvae-{os.getuid()}-{os.getpid()}"
    trap.mkdir(mode=0o777)
    trap.chmod(0o777)
    monkeypatch.setattr(module.shutil, "rmtree", lambda *_, **__: None)  # as if another user owned it
    assert private_folder(os.getpid(), keep=False) != trap
