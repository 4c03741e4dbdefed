"""What `decode` and `encode` say: a progress bar and sentences on stderr, lines of JSON on stdout, an exit code."""

from __future__ import annotations

import json
import os
import sys
import threading
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from typing import Literal, Protocol

from tqdm import tqdm

from wanvae_app.cli.clip_files import ClipFile
from wanvae_app.errors import plural

Status = Literal["done", "exists", "failed"]
FAILED = 1  # exit code if a file failed


@dataclass(frozen=True)
class Outcome:
    """How it went with one file."""

    index: int  # of the file
    status: Status
    frames: int = 0  # of the video that was written or read
    seconds: float = 0.0  # from the first chunk to the file in its place
    ranks: int = 0  # that coded it together
    error: str = ""  # a sentence
    notes: list[str] = field(default_factory=list)  # sentences


class Reporter(Protocol):
    """Hears how the work goes. Any thread may call."""

    def begin(self, index: int, num_frames: int) -> None:
        """A file of so many frames is being coded."""

    def advance(self, index: int, num_frames: int) -> None:
        """So many more of its frames are coded."""

    def end(self, outcome: Outcome) -> None:
        """A file is done, or has failed."""


class ClipReport:
    """Rank 0's Reporter, for the user. Without a terminal there is no bar."""

    def __init__(self, files: Sequence[ClipFile], as_json: bool) -> None:
        self._files = files
        self._as_json = as_json
        self._lock = threading.RLock()
        self._outcomes: dict[int, Outcome] = {}
        self._frames: dict[int, int] = {}  # of each file, as far as they are known
        self._coded: dict[int, int] = {}  # frames, by file
        self._said: set[str] = set()  # notes
        self._start = time.monotonic()
        self._bar: tqdm[None] = tqdm(
            unit=" frames", file=sys.stderr, disable=None, dynamic_ncols=True, smoothing=0.1
        )

    def begin(self, index: int, num_frames: int) -> None:
        with self._lock:
            if not self._frames:  # the first file
                self._start = time.monotonic()
                self._bar.unpause()
            self._frames[index], self._coded[index] = num_frames, 0
            self._update()

    def advance(self, index: int, num_frames: int) -> None:
        with self._lock:
            self._coded[index] += num_frames
            self._update()

    def end(self, outcome: Outcome) -> None:
        with self._lock:
            self._outcomes[outcome.index] = outcome
            if outcome.status != "done":  # what was coded of it remains counted, and nothing is to come
                self._frames[outcome.index] = self._coded.setdefault(outcome.index, 0)
            self._update()
            self._print(outcome)

    def missing(self) -> list[int]:
        """Indices of files of which no outcome is known."""
        with self._lock:
            return [index for index in range(len(self._files)) if index not in self._outcomes]

    def say(self, sentence: str) -> None:
        """Print a sentence on stderr, above the bar."""
        self._bar.write(sentence, file=sys.stderr)

    def close(self) -> int:
        """Print what was done; return the exit code."""
        with self._lock:
            self._bar.close()
            counts = {status: self._count(status) for status in ("done", "exists", "failed")}
            seconds = time.monotonic() - self._start
            frames = sum(outcome.frames for outcome in self._outcomes.values() if outcome.status == "done")
            parts = [f"{counts['done']} done"]
            parts += [f"{counts['exists']} there already"] if counts["exists"] else []
            parts += [f"{counts['failed']} failed"] if counts["failed"] else []
            rate = f", {frames / seconds:.1f} frames/s" if frames else ""
            print(f"{', '.join(parts)}; {seconds:.1f} s{rate}.", file=sys.stderr, flush=True)
            return FAILED if counts["failed"] else 0

    def interrupt(self, why: str) -> None:
        """Say how far the work is, because it ends here."""
        self._bar.close()
        count = sum(outcome.status != "failed" for outcome in list(self._outcomes.values()))
        print(
            f"{why}: {count} of {len(self._files)} files are done; the same command goes on there.",
            file=sys.stderr,
            flush=True,
        )

    def _print_line(self, line: str) -> None:
        """Print a line on stdout. If nobody reads it any more, as behind `| head`, the files are made all the same."""
        try:
            print(line, flush=True)
        except BrokenPipeError:
            self._as_json = False
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())

    def _count(self, status: str) -> int:
        return sum(outcome.status == status for outcome in self._outcomes.values())

    def _update(self) -> None:
        """Redraw the bar. Frames that are not known yet are estimated from the size of files."""
        known = sum(self._frames.values())
        known_bytes = sum(self._files[index].num_bytes for index in self._frames)
        other_bytes = sum(
            file.num_bytes
            for index, file in enumerate(self._files)
            if index not in self._frames and index not in self._outcomes
        )
        self._bar.total = known + (round(known * other_bytes / known_bytes) if known_bytes else 0)
        ended = len(self._outcomes)
        self._bar.set_description(f"{ended}/{len(self._files)} files", refresh=False)
        self._bar.update(sum(self._coded.values()) - self._bar.n)

    def _print(self, outcome: Outcome) -> None:
        file = self._files[outcome.index]
        if self._as_json:
            facts = {key: value for key, value in asdict(outcome).items() if key != "index"}
            result = None if outcome.status == "failed" else str(file.result)
            self._print_line(json.dumps({"input": str(file.source), "output": result, **facts}))
        if outcome.status == "failed":
            text = outcome.error
            self.say(text if file.source.name in text else f"{file.source.name}: {text}")
        elif outcome.status == "done":
            self.say(f"{file.result}: {plural(outcome.frames, 'frame')} in {outcome.seconds:.1f} s")
        for note in outcome.notes:
            if note not in self._said:  # many files may have the same
                self._said.add(note)
                self.say(f"  {file.source.name}: {note}")


def report_existing(files: Sequence[ClipFile], as_json: bool) -> None:
    """Report that all results are there already."""
    report = ClipReport(files, as_json)
    for index in range(len(files)):
        report.end(Outcome(index, "exists"))
    report.close()
