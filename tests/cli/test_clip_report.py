"""What `decode` and `encode` say of their work."""

from __future__ import annotations

import io
import json
import os
import sys
from pathlib import Path

import pytest

from wanvae_app.cli.clip_files import ClipFile
from wanvae_app.cli.clip_report import ClipReport, Outcome

FILES = [
    ClipFile(Path(f"/in/{name}.pt"), Path(f"/out/{name}.mp4"), size) for name, size in (("a", 10), ("b", 30))
]


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_a_bar_shows_frames_per_second_and_time_left(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stderr", terminal := Terminal())
    report = ClipReport(FILES, as_json=False)
    report.begin(0, 20)
    report._bar.mininterval = 0
    report.advance(0, 8)
    shown = terminal.getvalue().rpartition("\r")[2]
    assert "0/2 files" in shown and "8/80 [" in shown, (
        "of b, three times as large, three times as many frames"
    )
    assert "frames/s" in shown and "<" in shown
    report.end(Outcome(0, "failed", error="a.pt is bad."))
    report.begin(1, 40)
    report.advance(1, 40)
    assert "1/2 files" in terminal.getvalue() and "48/48 [" in terminal.getvalue()
    report.end(Outcome(1, "done", 40, 2.0, 1))
    assert report.close() == 1
    assert terminal.getvalue().splitlines()[-1].startswith("1 done, 1 failed; ")


def test_without_a_terminal_there_are_sentences(capsys: pytest.CaptureFixture[str]) -> None:
    report = ClipReport(FILES, as_json=True)
    for index, frames in ((0, 5), (1, 9)):
        report.begin(index, frames)
        report.end(Outcome(index, "done", frames, 1.0, 2, notes=["It was cropped."]))
    report.interrupt("Interrupted")
    assert report.close() == 0
    printed = capsys.readouterr()
    assert [json.loads(line)["output"] for line in printed.out.splitlines()] == ["/out/a.mp4", "/out/b.mp4"]
    lines = printed.err.splitlines()
    assert lines[0] == "/out/a.mp4: 5 frames in 1.0 s" and printed.err.count("It was cropped.") == 1
    assert "Interrupted: 2 of 2 files are done; the same command goes on there." in lines


def test_a_reader_that_has_enough_ends_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """As `decode --json | head -1` does."""
    reading, writing = os.pipe()
    os.close(reading)
    with os.fdopen(writing, "w") as stdout:
        monkeypatch.setattr(sys, "stdout", stdout)
        report = ClipReport(FILES, as_json=True)
        for index in (0, 1):
            report.begin(index, 1)
            report.end(Outcome(index, "done", 1, 1.0, 1))
        assert report.close() == 0
