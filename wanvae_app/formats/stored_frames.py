"""StoredFrames: a finished FrameLog whose frames lie in a lossless file until somebody reads them."""

from __future__ import annotations

import logging
import threading
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from wanvae_app.errors import describe
from wanvae_app.formats.lossless import read_lossless
from wanvae_app.frame_log import FrameLog

log = logging.getLogger(__name__)


class StoredFrames(FrameLog):
    """The frames of a file that `write_lossless` wrote, bit for bit.

    The first read begins to decode the whole file, in a thread of its own, into a FrameLog in `folder`. A read waits
    until the frames that it wants are decoded. A file that turns out to be damaged closes the log.
    """

    def __init__(
        self,
        path: Path,
        digest: str,
        height: int,
        width: int,
        times: Sequence[float],
        folder: Path,
        channels: int = 3,
    ) -> None:
        """`digest` is the file's; `times` are seconds of `time.monotonic`, one for each of its frames."""
        super().__init__(channels=channels)
        self.height = height
        self.width = width
        self.times = list(times)
        self.finished = True
        self._path = path
        self._digest = digest
        self._folder = folder
        self._decoded = FrameLog()
        self._decoding: threading.Thread | None = None

    @property
    def num_bytes(self) -> int:
        """Bytes of the frames that are decoded so far; 0 once the log is closed."""
        return self._decoded.num_bytes

    def append(self, frames: np.ndarray) -> None:
        """Never called: the log is finished."""
        raise AssertionError("the log is finished")

    def read(self, start: int, stop: int) -> np.ndarray:
        """Return frames as FrameLog.read does, once they are decoded. Raises ValueError for a damaged file, too."""
        if not 0 <= start <= stop <= len(self.times):
            raise IndexError(f"frames {start} to {stop} of a log of {len(self.times)}")
        self._start()
        arrived = threading.Event()
        with self._decoded.listener(arrived.set):
            while len(self._decoded) < stop and not self._decoded.finished:
                arrived.wait()
                arrived.clear()
        return self._decoded.read(start, stop)

    def close(self) -> None:
        """Free the frames that are decoded. Later reads raise ValueError; the file stays."""
        super().close()  # first: whoever waits for the frames is told by the other, and may ask at once
        self._decoded.close()

    def _start(self) -> None:
        """Begin to decode, unless that has begun."""
        with self._lock:
            if self._decoding is not None or self.closed:
                return
            self._decoded.open(self.height, self.width, self._folder, self.channels)
            self._decoding = threading.Thread(target=self._decode, name="history reader", daemon=True)
            self._decoding.start()

    def _decode(self) -> None:
        decoded = self._decoded
        try:
            size = self.height, self.width, len(self.times), self.channels
            for frame in read_lossless(self._path, self._digest, *size):
                if decoded.closed:
                    return
                decoded.append(frame[None])
                self.warning = decoded.warning
            decoded.finish()
        except Exception as error:  # whatever the file may provoke
            if not decoded.closed:
                log.warning("run %s of the history: %s", self._path.parent.name[:8], describe(error))
            self.close()
