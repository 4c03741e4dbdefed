"""--history: how much of which folder."""

from __future__ import annotations

import argparse
from pathlib import Path

import pytest

import app
from wanvae_app.cli.launch import parse, place_ranks, torchrun_command
from wanvae_app.cli.options import history_folder, parse_size


@pytest.mark.parametrize(
    ("text", "num_bytes"),
    [
        ("none", 0),
        ("20GB", 20 * 10**9),
        ("1.5 tb", 15 * 10**11),
        ("500mb", 5 * 10**8),
        ("20000000000", 2 * 10**10),
        ("7b", 7),
    ],
)
def test_sizes(text: str, num_bytes: int) -> None:
    assert parse_size(text) == num_bytes


@pytest.mark.parametrize(
    "text", ["", "0", "-1GB", "20 apples", "1e9", "nan", "GB", "99999999999999999tb", "٣GB"]
)
def test_what_is_no_size_is_refused(text: str) -> None:
    with pytest.raises(argparse.ArgumentTypeError, match="give for instance 20GB, or none"):
        parse_size(text)


@pytest.mark.parametrize(("given", "passed"), [("none", "none"), ("2GB", "2000000000")])
def test_the_launcher_passes_it_on(given: str, passed: str) -> None:
    args = parse(["--cpu", "1", "--history", given])
    command = torchrun_command(args, place_ranks(args))
    assert command[command.index("--history") + 1] == passed and parse_size(passed) == args.history


def test_the_folder_is_the_users_cache(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/home/ann")
    for cache in ("", "relative/cache"):
        monkeypatch.setenv("XDG_CACHE_HOME", cache)
        assert history_folder() == Path("/home/ann/.cache/wanvae/history")
    monkeypatch.setenv("XDG_CACHE_HOME", "/var/cache/ann")
    assert history_folder() == Path("/var/cache/ann/wanvae/history")


def test_without_a_folder_the_app_starts_all_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert app.open_archive(0) is None and list(tmp_path.iterdir()) == [], "--history none"
    (tmp_path / "wanvae").touch()
    assert app.open_archive(1000) is None
    assert len(caplog.records) == 1 and "no history is kept" in caplog.text
