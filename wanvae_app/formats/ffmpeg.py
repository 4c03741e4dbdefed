"""ffmpeg as a child process: started with pipes, ended after a time limit, its error output kept."""

from __future__ import annotations

import contextlib
import re
import subprocess
import threading
from collections import deque
from collections.abc import Iterator

import imageio_ffmpeg

FILE_TIMEOUT = 900.0  # seconds for reading or writing a whole file
DISK_FULL = "No space left on device"
MAX_LINES = 20  # of error output that are kept


class Ffmpeg:
    """A running ffmpeg: its `process`, whose stdin and stdout are the caller's, and its error output."""

    def __init__(self, process: subprocess.Popen[bytes]) -> None:
        self.process = process
        self._lines: deque[bytes] = deque(maxlen=MAX_LINES)
        # A thread reads the error output, because ffmpeg stops when that pipe is full.
        self._reader = threading.Thread(target=self._lines.extend, args=(process.stderr,), daemon=True)
        self._reader.start()

    def wait(self) -> int:
        """Wait for ffmpeg to end, and return its exit status."""
        status = self.process.wait()
        self._reader.join(5)
        return status

    def error_output(self) -> str:
        """The last lines of the error output, each without the "[component @ address] " that it begins with."""
        lines = b"".join(self._lines).decode(errors="replace").strip().splitlines()
        return "\n".join(re.sub(r"^(\[.*?\] )+", "", line) for line in lines)

    def last_error(self) -> str:
        """The last line of the error output, without a full stop; of a full disk, that."""
        text = self.error_output()
        if DISK_FULL in text:  # later lines are about its consequences
            return DISK_FULL
        return text.rpartition("\n")[2][:300].rstrip(" .") or "it ended without a word"


def command(*arguments: str) -> list[str]:
    """A command line for ffmpeg with these arguments. Raises OSError, with a sentence, if there is no ffmpeg."""
    try:
        return [imageio_ffmpeg.get_ffmpeg_exe(), "-hide_banner", *arguments]
    except RuntimeError as error:
        raise _missing() from error


@contextlib.contextmanager
def running(
    arguments: list[str],
    *,
    stdin: int | None = None,
    stdout: int | None = None,
) -> Iterator[Ffmpeg]:
    """Run a command line during the block; it is killed at the end of the block or after FILE_TIMEOUT seconds.

    `stdin` and `stdout` are as for subprocess.Popen. Raises OSError if the command cannot be started.
    """
    try:
        process = subprocess.Popen(arguments, stdin=stdin, stdout=stdout, stderr=subprocess.PIPE, bufsize=0)
    except OSError as error:
        raise _missing() from error
    timer = threading.Timer(FILE_TIMEOUT, process.kill)
    timer.start()
    ffmpeg = Ffmpeg(process)
    try:
        yield ffmpeg
    finally:
        timer.cancel()
        process.kill()
        ffmpeg.wait()
        for pipe in (process.stdin, process.stdout, process.stderr):
            if pipe is not None:
                with contextlib.suppress(BrokenPipeError):
                    pipe.close()


def error_output(arguments: list[str], timeout: float) -> str:
    """Run a command line to its end, and return its error output, where ffmpeg describes its input.

    Raises OSError if the command cannot be started, TimeoutExpired after `timeout` seconds.
    """
    try:
        finished = subprocess.run(arguments, capture_output=True, timeout=timeout, check=False)
    except OSError as error:
        raise _missing() from error
    return finished.stderr.decode(errors="replace")


def _missing() -> OSError:
    return OSError(
        "Videos need ffmpeg, which is missing on the server; install it with pip install imageio-ffmpeg, or set "
        "IMAGEIO_FFMPEG_EXE to the one to use."
    )
