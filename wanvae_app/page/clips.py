"""Clip: the frames of a run or of its source, found by name for whoever may see them."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from starlette.exceptions import HTTPException
from starlette.requests import Request

from wanvae_app.errors import plural, tell
from wanvae_app.frame_log import FrameLog
from wanvae_app.jobs.job_state import JobState
from wanvae_app.page.auth import COOKIE, is_logged_in, may_use
from wanvae_app.page.entry import HistoryEntry
from wanvae_app.page.history import History

SOURCE_SUFFIX = ".source"  # behind a run's id, which has no dot: the run's source
MAX_DIGITS = 9  # of a number in an address


@dataclass(frozen=True)
class Clip:
    """The frames of a run, or of its source."""

    name: str  # the run's id, with SOURCE_SUFFIX for its source
    run: JobState
    frames: FrameLog

    def read(self, frame: int, with_alpha: bool = False) -> np.ndarray:
        """Return a frame as it is seen, uint8 RGB [H, W, 3], or with its alpha, if it has one, [H, W, 4].

        Raises HTTPException 404 if there is none yet, 410 if it was deleted.
        """
        read = self.frames.read if with_alpha else self.frames.read_seen
        try:
            pixels: np.ndarray = read(frame, frame + 1)[0]
            return pixels
        except IndexError:
            count = plural(len(self.frames), "frame")
            so_far = "" if self.run.ended else " so far"
            raise HTTPException(404, f"There is no frame {frame}: the clip has {count}{so_far}.") from None
        except ValueError:
            raise deleted() from None


def find_entry(history: History, request: Request, run_id: str, opens: bool = True) -> HistoryEntry:
    """Return a run's entry, opened for reading its frames if `opens`.

    Raises HTTPException 401 without a login, 404 if the caller has no such run, 507 if there is no room to open it.
    """
    if not is_logged_in(request):
        raise HTTPException(401, "Log in first.")
    owner = request.cookies.get(COOKIE, "")
    try:
        entry = history.get(run_id, owner) if opens else history.find(run_id, owner)
    except (ValueError, OSError) as error:
        raise HTTPException(507, tell(error, "This run")) from error
    if entry is None or not may_use(request, entry.run.owner):
        raise HTTPException(404, "There is no such run.")
    return entry


def find_clip(history: History, request: Request, name: str) -> Clip:
    """Return the clip of that name. Raises HTTPException as `find_entry` does, and 410 if its frames were deleted.

    Asking for a clip counts as watching its run.
    """
    run = find_entry(history, request, name.removesuffix(SOURCE_SUFFIX)).run
    frames = run.source if name.endswith(SOURCE_SUFFIX) else run.frames
    run.seen()
    if frames is None:
        raise HTTPException(404, "This run has no source: its input was a latent.")
    if frames.closed:
        raise deleted()
    return Clip(name, run, frames)


def deleted() -> HTTPException:
    """Return the refusal for frames that are no longer there."""
    return HTTPException(410, "These frames have been deleted; run it again.")


def whole_number(text: str, name: str, lowest: int = 0, highest: int = 10**MAX_DIGITS - 1) -> int:
    """Return a number from an address. Raises HTTPException 400 unless it is a whole one in the range."""
    if text.isascii() and text.isdigit() and len(text) <= MAX_DIGITS and lowest <= int(text) <= highest:
        return int(text)
    limits = f"{lowest} or more" if highest >= 10**MAX_DIGITS - 1 else f"{lowest} to {highest}"
    raise HTTPException(400, f"{name} must be a whole number, {limits}.")
