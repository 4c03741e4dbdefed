"""ffmpeg as a child process: started with pipes and limits, ended after a time limit, its error output kept."""

from __future__ import annotations

import contextlib
import re
import select
import shutil
import subprocess
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator

import imageio_ffmpeg

from wanvae_app.formats.limits import Limits

FILE_TIMEOUT = 900.0  # seconds for reading or writing a whole file
SILENCE_TIMEOUT = 60.0  # seconds without a byte of output, for one that is read
POLL_INTERVAL = 0.1  # seconds between two looks at whether to stop
DISK_FULL = "No space left on device"
MAX_LINES = 20  # of error output that are kept

StopCheck = Callable[[], bool]


class ReadingStopped(Exception):
    """Reading was stopped, because who wanted it no longer does."""


class Ffmpeg:
    """A running ffmpeg: its `process`, whose stdin and stdout are the caller's, and its error output."""

    def __init__(self, process: subprocess.Popen[bytes]) -> None:
        self.process = process
        self.is_hung = False  # it was silent, or at work, for too long
        self._lines: deque[bytes] = deque(maxlen=MAX_LINES)
        # A thread reads the error output, because ffmpeg stops when that pipe is full.
        self._reader = threading.Thread(target=self._lines.extend, args=(process.stderr,), daemon=True)
        self._reader.start()

    def read(
        self, num_bytes: int, is_stopped: StopCheck | None = None, silence: float | None = None
    ) -> bytes:
        """`num_bytes` bytes of its output, fewer only at the end.

        Ends, and `is_hung` is true, after `silence` seconds without a byte (None: SILENCE_TIMEOUT). Raises
        ReadingStopped as soon as `is_stopped` returns true, which any thread may cause.
        """
        pipe = self.process.stdout
        assert pipe is not None
        poll = select.poll()  # select.select is limited to descriptors below 1,024
        poll.register(pipe, select.POLLIN)
        parts: list[bytes] = []
        last_byte = time.monotonic()
        timeout = SILENCE_TIMEOUT if silence is None else silence
        while num_bytes:
            if is_stopped is not None and is_stopped():
                raise ReadingStopped("The reading was stopped.")
            if not poll.poll(POLL_INTERVAL * 1000):
                if time.monotonic() - last_byte < timeout:
                    continue
                self.give_up()
                break
            part = pipe.read(num_bytes)
            if not part:
                break
            parts.append(part)
            num_bytes -= len(part)
            last_byte = time.monotonic()
        return b"".join(parts)

    def give_up(self) -> None:
        """Kill ffmpeg because it takes too long."""
        self.is_hung = True
        self.process.kill()

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
    limits: Limits | None = None,
    timeout: float = FILE_TIMEOUT,
) -> Iterator[Ffmpeg]:
    """Run a command line during the block; it is killed at the end of the block or after `timeout` seconds.

    `stdin` and `stdout` are as for subprocess.Popen. With a pipe it also ends when this process does, because the pipe
    breaks. Raises OSError if the command cannot be started.
    """
    if shutil.which(arguments[0]) is None:
        raise _missing()
    try:
        process = subprocess.Popen(
            limits.command(arguments) if limits else arguments,
            stdin=stdin,
            stdout=stdout,
            stderr=subprocess.PIPE,
            bufsize=0,
        )
    except OSError as error:
        raise _missing() from error
    ffmpeg = Ffmpeg(process)
    timer = threading.Timer(timeout, ffmpeg.give_up)
    timer.start()
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


def _missing() -> OSError:
    return OSError(
        "Videos need ffmpeg, which is missing on the server; install it with pip install imageio-ffmpeg, or set "
        "IMAGEIO_FFMPEG_EXE to the one to use."
    )
