"""HistoryEntries in an Archive: written when a run has ended, and made from it again.

Only runs of browsers are archived: a program keeps no cookie, so nobody could list or delete its runs. Of the cookie
the archive has a hash, so that nobody who reads its files can take a visitor's place.
"""

from __future__ import annotations

import hashlib
import io
import logging
import shutil
from pathlib import Path
from typing import Any

from PIL import Image

from wanvae_app.formats.latent_origin import Misfit
from wanvae_app.formats.lossless import write_lossless
from wanvae_app.formats.stored_frames import StoredFrames
from wanvae_app.frame_log import FrameLog
from wanvae_app.jobs.archive import Archive, ArchivedRun
from wanvae_app.jobs.budget import amount, free_disk
from wanvae_app.jobs.job_state import JobState
from wanvae_app.jobs.run_facts import facts_of, run_from
from wanvae_app.page.auth import SESSION_PREFIX
from wanvae_app.page.entry import HistoryEntry, RunInput

log = logging.getLogger(__name__)

FRAMES, SOURCE = "frames.mkv", "source.mkv"
VIDEO, LATENT = "video.mp4", "latent.safetensors"
PICTURE = "picture.jpg"
PICTURE_SIDES = 240, 150  # largest width and height of a run's picture, in pixels
PICTURE_QUALITY = 82
LEAST_SHARE = 4  # bytes of frames per byte of disk that must be free before they are written


def owner_key(owner: str) -> str:
    """What an archive calls an owner: the same for the same cookie, and telling nothing of it. "" for a program."""
    is_browser = owner and not owner.startswith(SESSION_PREFIX)
    return hashlib.sha256(f"wanvae {owner}".encode()).hexdigest() if is_browser else ""


def make_picture(frames: FrameLog) -> bytes:
    """Make a small JPEG of the frame in the middle. Raises ValueError if the frames were deleted."""
    middle = len(frames) // 2
    image = Image.fromarray(frames.read_seen(middle, middle + 1)[0])
    image.thumbnail(PICTURE_SIDES, Image.Resampling.BOX)
    data = io.BytesIO()
    image.save(data, "JPEG", quality=PICTURE_QUALITY)
    return data.getvalue()


def archive_entry(archive: Archive, entry: HistoryEntry) -> None:
    """Write an ended run with its frames into the archive. Takes a while, with the lowest priority.

    Raises OSError, with a sentence, if it cannot be kept; ValueError if its frames are deleted meanwhile.
    """
    run = entry.run
    num_bytes = run.frames.num_bytes + (run.source.num_bytes if run.source is not None else 0)
    if free_disk(archive.folder) < num_bytes // LEAST_SHARE:
        raise OSError(f"the disk of {archive.folder} has no room for the history")
    facts = facts_of(run) | {"owner": owner_key(run.owner), "entry": _entry_facts(entry)}
    with archive.new_run(run.id, facts) as folder:
        facts["digests"] = {FRAMES: write_lossless(run.frames, folder / FRAMES)}
        if run.source is not None:
            facts["digests"][SOURCE] = write_lossless(run.source, folder / SOURCE)
        for path, name in ((run.video_path, VIDEO), (run.latent_path, LATENT)):
            if path is not None:
                shutil.copyfile(path, folder / name)
        if entry.picture is not None:
            (folder / PICTURE).write_bytes(entry.picture)
    kept = archive.get(run.id)
    size = amount(kept.num_bytes) if kept is not None else "nothing"
    log.info("job %s: in the history, %s", run.id[:8], size)


def restore_entry(archived: ArchivedRun, owner: str, folder: Path) -> HistoryEntry:
    """Return the entry of an archived run of this owner. Its frames are decoded into `folder` once they are read.

    Raises ValueError, KeyError, TypeError or OSError if the archive's files are no run of this app.
    """
    facts = archived.facts()

    def stored(name: str) -> Any:
        path, digest = archived.folder / name, facts["digests"].get(name)
        return lambda height, width, times, channels=3: StoredFrames(
            path, digest, height, width, times, folder, channels
        )

    run: JobState = run_from(facts, folder, stored(FRAMES), stored(SOURCE))
    run.owner = owner
    for attribute, name in (("video_path", VIDEO), ("latent_path", LATENT)):
        if (archived.folder / name).is_file():
            setattr(run, attribute, archived.folder / name)
    known = facts["entry"]
    texts = [known["digest"], known["scaling"], known["note"], known["why"]]
    if not all(isinstance(text, str) for text in texts) or not isinstance(known["number"], int):
        raise TypeError("the facts of its entry are of other types")
    sentence, is_clear = known["misfit"]
    digest, scaling, note, why = texts
    run_input = RunInput(digest, scaling, note, why, Misfit(str(sentence), bool(is_clear)))
    entry = HistoryEntry(run, run_input, known["number"], settled=True)
    entry.psnr = None if known["psnr"] is None else float(known["psnr"])
    entry.comparison = known["comparison"]
    entry.is_cold = bool(known["is_cold"])
    picture = archived.folder / PICTURE
    entry.picture = picture.read_bytes() if picture.is_file() else None
    return entry


def _entry_facts(entry: HistoryEntry) -> dict[str, Any]:
    return {
        "digest": entry.input.digest,
        "scaling": entry.input.scaling,
        "note": entry.input.note,
        "why": entry.input.why,
        "is_cold": entry.is_cold,
        "misfit": list(entry.input.misfit),
        "number": entry.number,
        "psnr": None if entry.psnr is None else str(entry.psnr),  # JSON lacks infinity
        "comparison": entry.comparison,
    }
