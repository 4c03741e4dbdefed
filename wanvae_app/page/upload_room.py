"""UploadRoom: how much disk uploads may take, and what becomes of those that do not come to their end."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import re
import secrets
import shutil
import threading
from collections.abc import Iterator
from pathlib import Path

from gradio import route_utils, routes
from gradio.utils import get_upload_folder
from starlette.datastructures import Headers
from starlette.exceptions import HTTPException
from starlette.formparsers import MultiPartException
from starlette.requests import ClientDisconnect, Request

from wanvae_app.errors import describe, tell
from wanvae_app.jobs.budget import amount, free_disk
from wanvae_app.jobs.service import JobService
from wanvae_app.page.auth import COOKIE
from wanvae_app.page.file_components import PUBLISHED_PREFIX
from wanvae_app.page.upload import UploadedLatent, UploadedVideo

log = logging.getLogger(__name__)

MAX_FILES = 64  # that a visitor has uploaded
MAX_ALL_FILES = 2048
PROGRESS_SECONDS = 10.0  # that a page has to ask for the end of an upload's progress
SHARE = 0.25  # of the disk that is free or holds uploads: a visitor's part of it
UPLOAD_NAME = re.compile("[0-9a-f]{64}")  # of an upload's folder: the hash of its content
PART_PREFIX = "part-"  # of folders with uploads that have not come to their end


class UploadRoom:
    """Takes uploads in the place of Gradio's `upload_fn`. Thread-safe.

    Each upload is written into a folder of its own, which is deleted if the upload is broken off or the disk is full.
    What a visitor has uploaded takes at most SHARE, in at most MAX_FILES files. When that is used up, his oldest files
    are deleted, but for those that a queued run is still to read.
    """

    def __init__(self, jobs: JobService) -> None:
        self.jobs = jobs
        self._lock = threading.Lock()
        self._owners: dict[Path, str] = {}  # of uploaded files, oldest first
        self._coming: dict[str, tuple[str, int]] = {}  # by part: the visitor, and the bytes announced

    def install(self) -> None:
        """Let Gradio's route for uploads call this object.

        Of what an earlier process has left, uploads stay, and count as a visitor's who keeps no cookie.
        """
        routes.upload_fn = self.take  # type: ignore[attr-defined]
        found: list[Path] = []
        for folder in Path(get_upload_folder()).glob("*"):
            if folder.name.startswith((PART_PREFIX, PUBLISHED_PREFIX)):
                shutil.rmtree(folder, ignore_errors=True)
            elif UPLOAD_NAME.fullmatch(folder.name):
                found += folder.glob("*")
        self._owners = dict.fromkeys(sorted(found, key=lambda path: path.stat().st_mtime), "")

    async def take(
        self,
        request: Request,
        upload_dir: str,
        max_file_size: float,
        upload_id: str | None,
        force_move: bool = True,
        upload_progress: route_utils.FileUploadProgress | None = None,
    ) -> tuple[list[str], list[str], list[str]]:
        """Receive the files of a request; return their paths, and two empty lists, as Gradio's `upload_fn` does.

        Raises MultiPartException, with a sentence, if there is no room, or the upload is broken off or malformed.
        """
        folder, part = Path(upload_dir), f"{PART_PREFIX}{secrets.token_hex(8)}"
        owner = request.cookies.get(COOKIE, "")
        try:
            with self._announced(part, owner, folder, request.headers):
                paths, _, _ = await route_utils.upload_fn(
                    request, folder / part, max_file_size, upload_id, force_move, upload_progress
                )
                return [self._keep(Path(path), folder, owner) for path in paths], [], []
        except (MultiPartException, HTTPException):  # with a sentence already
            raise
        except ClientDisconnect as error:
            raise MultiPartException("The upload was broken off.") from error
        except OSError as error:
            log.warning("an upload failed: %s", error.strerror)
            raise MultiPartException(tell(error, "This upload")) from error
        except Exception as error:  # Gradio's parser meets what it does not expect
            log.warning("an upload was malformed: %s", describe(error))
            raise MultiPartException(
                "This upload is malformed; send one file, in a field named files."
            ) from error
        finally:
            shutil.rmtree(folder / part, ignore_errors=True)
            if upload_id and upload_progress is not None:
                upload_progress.set_done(upload_id)
                loop = asyncio.get_running_loop()
                loop.call_later(PROGRESS_SECONDS, _forget_progress, upload_progress, upload_id)

    @contextlib.contextmanager
    def _announced(self, part: str, owner: str, folder: Path, headers: Headers) -> Iterator[None]:
        """Reserve room for an upload while it comes. Raises MultiPartException if there is not enough."""
        length = headers.get("content-length", "")
        if not length.isascii() or not length.isdigit():
            raise MultiPartException("An upload must state its length.")
        with self._lock:
            self._make_room(owner, folder, int(length))
            self._coming[part] = owner, int(length)
        try:
            yield
        finally:
            with self._lock:
                del self._coming[part]

    def _make_room(self, owner: str, folder: Path, num_bytes: int) -> None:
        sizes = self._sizes()
        coming = sum(length for _, length in self._coming.values())
        own = sum(size for path, size in sizes.items() if self._owners[path] == owner)
        own += sum(length for visitor, length in self._coming.values() if visitor == owner)
        disk = max(0, free_disk(folder) - coming)
        share = int(SHARE * (disk + coming + sum(sizes.values())))
        in_use = self._in_use()
        old = [path for path in sizes if self._owners[path] == owner and path not in in_use]
        deletable = sum(sizes[path] for path in old)
        most = max(0, min(disk + deletable, share - own + deletable))
        if num_bytes > most:
            raise MultiPartException(
                f"This upload has {amount(num_bytes)}, and {amount(most)} are free for your uploads on the server; "
                "give a smaller file, or try again later."
            )
        for path in old:
            if num_bytes <= min(disk, share - own):
                break
            self._delete(path)
            disk, own = disk + sizes[path], own - sizes[path]

    def _sizes(self) -> dict[Path, int]:
        """The uploads that are still there. Gradio deletes those that are a day old."""
        sizes = {}
        for path in list(self._owners):
            try:
                sizes[path] = os.stat(path).st_size
            except OSError:
                del self._owners[path]
        return sizes

    def _keep(self, path: Path, folder: Path, owner: str) -> str:
        """Move an upload from its part, PART/HASH/NAME, to where an equal one lies already; return the new path."""
        kept = folder / path.parent.name / path.name
        kept.parent.mkdir(exist_ok=True)
        path.replace(kept)
        with self._lock:
            self._owners.pop(kept, None)  # the newest is the last
            self._owners[kept] = owner
            own = [other for other, visitor in self._owners.items() if visitor == owner]
            surplus = {*own[:-MAX_FILES], *list(self._owners)[:-MAX_ALL_FILES]} - self._in_use()
            for other in surplus:
                self._delete(other)
        return str(kept)

    def _in_use(self) -> set[Path]:
        """The uploads that runs are still to read."""
        runs = [run for run in self.jobs.runs() if not run.ended]
        return {run.unread.path for run in runs if isinstance(run.unread, (UploadedLatent, UploadedVideo))}

    def _delete(self, path: Path) -> None:
        shutil.rmtree(path.parent, ignore_errors=True)
        del self._owners[path]


def _forget_progress(progress: route_utils.FileUploadProgress, upload_id: str) -> None:
    """Free what Gradio keeps of an upload's progress, which it does only if a page asks for it."""
    progress.stop_tracking(upload_id)
    progress._signals.pop(upload_id, None)
