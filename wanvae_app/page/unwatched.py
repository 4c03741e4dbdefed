"""A run that nobody watches is stopped, because its page was closed."""

from __future__ import annotations

import logging
import time

from wanvae_app.jobs.job_state import JobState, Status

log = logging.getLogger(__name__)

UNWATCHED_SECONDS = 6.0  # that a run goes on unwatched: long enough for a page to reload
QUEUED_FACTOR = 5  # times as long for a queued run, which occupies no rank
CHECK_INTERVAL = 0.5  # seconds


def follow_until_end(run: JobState, seconds: float = UNWATCHED_SECONDS) -> None:
    """Block until the run has ended. Stop it once nobody has called `run.seen()` for `seconds`.

    A queued run is stopped after QUEUED_FACTOR times `seconds`, unless its input is being read.
    """
    version = None
    while not run.ended:
        version = run.wait(CHECK_INTERVAL, version)
        is_idle = run.status == Status.QUEUED and not run.is_reading
        limit = seconds * (QUEUED_FACTOR if is_idle else 1)
        if time.monotonic() - run.last_seen > limit and not run.stop_requested:
            log.info("job %s: nobody is watching, so it is stopped", run.id[:8])
            run.stop(f"no page had asked for it for {limit:.0f} s")
