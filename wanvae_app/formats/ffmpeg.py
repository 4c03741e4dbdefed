"""ffmpeg as a process: begun, watched, ended, and asked for its last words."""

from __future__ import annotations

import contextlib
import re
import subprocess
import threading
from collections import deque
from collections.abc import Iterator

import imageio_ffmpeg

PATIENCE = 900.0  # seconds for a whole file
FULL = "No space left on device"


class Ffmpeg:
    """A running ffmpeg. `process` has its pipes; `end` waits for it; then there are its complaints."""

    def __init__(self, process: subprocess.Popen[bytes]) -> None:
        self.process = process
        self._lines: deque[bytes] = deque(maxlen=20)
        # Read beside everything else: a full pipe would halt it, and there may be no place for a file.
        self._reader = threading.Thread(target=self._lines.extend, args=(process.stderr,), daemon=True)
        self._reader.start()

    def end(self) -> int:
        """Wait for its end, and return its exit status."""
        status = self.process.wait()
        self._reader.join(5)
        return status

    def complaints(self) -> str:
        """The last lines that it wrote to its error output, without where in ffmpeg they come from."""
        lines = b"".join(self._lines).decode(errors="replace").strip().splitlines()
        return "\n".join(re.sub(r"^(\[.*?\] )+", "", line) for line in lines)

    def last_words(self) -> str:
        """The last of its complaints, without a full stop."""
        complaints = self.complaints()
        if FULL in complaints:  # others follow from it
            return FULL
        return complaints.rpartition("\n")[2][:300].rstrip(" .") or "it ended without a word"


def command(*arguments: str) -> list[str]:
    """A command line that shows no banner. Raises OSError, in a sentence, if there is no ffmpeg."""
    try:
        return [imageio_ffmpeg.get_ffmpeg_exe(), "-hide_banner", *arguments]
    except RuntimeError as error:
        raise _missing() from error


@contextlib.contextmanager
def running(arguments: list[str], **pipes: int) -> Iterator[Ffmpeg]:
    """Start a command; at the end of the block, or after PATIENCE seconds, it is dead. Raises OSError."""
    try:
        process = subprocess.Popen(arguments, stderr=subprocess.PIPE, bufsize=0, **pipes)  # type: ignore[call-overload]
    except OSError as error:
        raise _missing() from error
    timer = threading.Timer(PATIENCE, process.kill)
    timer.start()
    ffmpeg = Ffmpeg(process)
    try:
        yield ffmpeg
    finally:
        timer.cancel()
        process.kill()
        ffmpeg.end()
        for pipe in (process.stdin, process.stdout, process.stderr):
            if pipe is not None:
                with contextlib.suppress(BrokenPipeError):
                    pipe.close()


def output(arguments: list[str], timeout: float) -> str:
    """What a command says on its error output. Raises OSError, and TimeoutExpired after `timeout` seconds."""
    try:
        found = subprocess.run(arguments, capture_output=True, timeout=timeout, check=False)
    except OSError as error:
        raise _missing() from error
    return found.stderr.decode(errors="replace")


def _missing() -> OSError:
    return OSError(
        "Videos need ffmpeg, which is missing on the server; install it with pip install imageio-ffmpeg, or set "
        "IMAGEIO_FFMPEG_EXE to the one to use."
    )
