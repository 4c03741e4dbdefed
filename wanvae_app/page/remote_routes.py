"""The remote VAE: routes by which a program on another machine decodes and encodes, without the page.

vae/decode     POST: a latent's bytes; answers with a tensor, a picture, an MP4, or frames as they are decoded
vae/encode     POST: a video's bytes, or a PNG; answers with a latent

They speak as diffusers' `remote_decode` and `remote_encode` do; docs/remote.md describes the protocol. A request is one
run: it waits in the queue, is refused, fails and is stopped like one of the page. It ends with its connection, and
nothing of it is kept. A refusal is JSON, {"detail": SENTENCE}.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import Callable, Iterator
from typing import TypeVar

from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import FileResponse, Response, StreamingResponse
from starlette.routing import BaseRoute, Route

from wanvae_app.config import WanConfig
from wanvae_app.jobs.job import JobKind
from wanvae_app.jobs.job_state import JobState, Status
from wanvae_app.jobs.service import JobService
from wanvae_app.page.auth import SESSION_PREFIX, address_of
from wanvae_app.page.remote_answer import Answer, decoded_answer, encoded_answer
from wanvae_app.page.remote_body import Body, BodyRoom, drain
from wanvae_app.page.remote_input import SentLatent, SentPicture, SentVideo
from wanvae_app.page.remote_layout import is_packed, is_picture, latent_layout, video_shape
from wanvae_app.page.remote_lease import Lease, LeasedResponse, is_coded, wait_until
from wanvae_app.page.remote_request import (
    STREAM_TYPE,
    DecodeRequest,
    EncodeRequest,
    ImageFormat,
    OutputType,
)
from wanvae_app.page.remote_stream import remote_records

MAX_PNG = 2**26  # bytes
OWNER = f"{SESSION_PREFIX}remote"  # of all programs at one address together

Wanted = TypeVar("Wanted")


def make_remote_routes(jobs: JobService) -> list[BaseRoute]:
    """Make the routes for these jobs."""
    remote = RemoteVae(jobs)
    return [
        Route("/vae/decode", remote.decode, methods=["POST"]),
        Route("/vae/encode", remote.encode, methods=["POST"]),
    ]


class RemoteVae:
    """One method per route."""

    def __init__(self, jobs: JobService) -> None:
        self.jobs = jobs
        self.room = BodyRoom(jobs.store)
        self._endings: set[asyncio.Task[None]] = set()

    async def decode(self, request: Request) -> LeasedResponse:
        def parse(config: WanConfig) -> DecodeRequest:
            wanted = DecodeRequest.parse(request.query_params, request.headers, config)
            with self._advising(wanted.tensor.shape, config):
                layout = latent_layout(wanted, config)
            num_frames = config.num_frames(layout.num_latents)
            if wanted.wants_picture and num_frames > 1:
                raise ValueError(
                    f"This latent decodes to {num_frames} frames, and a picture holds one; ask for output_type pt or "
                    "mp4, or give a processor."
                )
            return wanted

        vae, config, wanted = await self._parsed(request, parse)
        body = await self.room.take(request, wanted.tensor.num_bytes)
        unread = SentLatent(body, wanted, config)
        is_mp4 = wanted.output_type == OutputType.MP4 and not wanted.is_stream
        lease = await self._start(
            request, unread, JobKind.DECODE, vae, wants_files=is_mp4, bit_depth=wanted.bit_depth
        )
        run = lease.run
        try:
            if wanted.is_stream:
                await wait_until(request, run, lambda: len(run.frames) > 0)
                return LeasedResponse(self._stream(run, wanted.image_format, unread.note), lease)
            if is_mp4:
                await wait_until(request, run, lambda: run.status == Status.FINISHED)
                return LeasedResponse(_file(run, unread.note), lease)
            await wait_until(request, run, lambda: is_coded(run))
            has_no_time = is_packed(wanted) or is_picture(wanted.tensor.shape, config.z_dim)
            answer = await asyncio.to_thread(decoded_answer, run.frames, wanted, has_no_time)
            return LeasedResponse(_whole(answer, run, unread.note), lease)
        except BaseException:
            lease.end()
            raise

    async def encode(self, request: Request) -> LeasedResponse:
        def parse(config: WanConfig) -> EncodeRequest:
            wanted = EncodeRequest.parse(request.query_params, config)
            if wanted.tensor is not None:
                video_shape(wanted.tensor, config)
            return wanted

        vae, config, wanted = await self._parsed(request, parse)
        tensor = wanted.tensor
        if tensor is not None:
            body = await self.room.take(request, tensor.num_bytes)
            unread: SentVideo | SentPicture = SentVideo(body, tensor, config)
        else:
            body = await self.room.take(request, MAX_PNG, exactly=False)
            unread = _picture(body, config)
        lease = await self._start(request, unread, JobKind.ENCODE, vae, wants_files=False)
        run = lease.run
        try:
            await wait_until(request, run, lambda: is_coded(run))
            assert run.latent is not None
            z = await asyncio.to_thread(wanted.scaling.from_raw, run.latent.float(), config)
            has_no_time = tensor is not None and is_picture(tensor.shape, 3)
            answer = await asyncio.to_thread(encoded_answer, z[:, :, 0] if has_no_time else z)
            return LeasedResponse(_whole(answer, run, unread.note), lease)
        except BaseException:
            lease.end()
            raise

    async def _parsed(
        self, request: Request, parse: Callable[[WanConfig], Wanted]
    ) -> tuple[str, WanConfig, Wanted]:
        """Return the name and the configuration of the VAE that is asked for, and what `parse` makes of the query.

        Raises HTTPException 400 with what `parse` refuses.
        """
        try:
            vae = self.jobs.vaes.find(request.query_params.get("vae", ""))
            config = self.jobs.vaes[vae].config
            return vae, config, parse(config)
        except ValueError as error:
            await drain(request)
            text = str(error).rstrip(".")
            raise HTTPException(400, f"{text}.") from None

    @contextlib.contextmanager
    def _advising(self, shape: tuple[int, ...], config: WanConfig) -> Iterator[None]:
        """Let the refusal of a latent name the VAEs that have its number of channels."""
        vaes, channels = self.jobs.vaes, shape[1] if len(shape) == 5 else config.z_dim
        try:
            yield
        except ValueError as error:
            fitting = [name for name in vaes.names if vaes[name].config.z_dim == channels != config.z_dim]
            if not fitting:
                raise
            raise ValueError(
                f"{str(error).rstrip('.')}; {' or '.join(fitting)} would, as vae=NAME."
            ) from error

    async def _start(
        self,
        request: Request,
        unread: SentLatent | SentVideo | SentPicture,
        kind: JobKind,
        vae: str,
        *,
        wants_files: bool,
        bit_depth: int = 8,
    ) -> Lease:
        """Queue a run. Raises HTTPException 400 if the VAE cannot do it, 503 if no place is left for it."""
        address = address_of(request)
        try:
            run = self.jobs.new_unread_run(
                unread,
                kind,
                chunk=self.jobs.vaes[vae].default_chunk,
                parallel=True,
                owner=f"{OWNER} {address}".rstrip(),
                vae=vae,
                bit_depth=bit_depth,
            )
        except ValueError as error:
            unread.body.close()
            raise HTTPException(400, str(error)) from None
        run.address, run.wants_files, run.is_pinned = address, wants_files, True
        try:
            await asyncio.to_thread(self.jobs.submit, run)
        except BaseException as error:
            unread.body.close()
            if isinstance(error, ValueError):
                raise HTTPException(503, str(error)) from None
            raise
        return Lease(self.jobs, run, unread.body, self._endings)

    def _stream(self, run: JobState, image_format: ImageFormat, note: str) -> Response:
        shape = [run.num_frames, *run.frames.read(0, 1).shape[1:]]
        headers = {"shape": json.dumps(shape), "dtype": "uint8"}
        headers |= {"image_format": image_format, "fps": f"{run.fps:g}", **_facts(run, note)}
        return StreamingResponse(remote_records(run, image_format), headers=headers, media_type=STREAM_TYPE)


def _picture(body: Body, config: WanConfig) -> SentPicture:
    try:
        return SentPicture(body, config)
    except ValueError as error:
        body.close()
        raise HTTPException(400, str(error)) from None


def _whole(answer: Answer, run: JobState, note: str) -> Response:
    headers = {**answer.headers, **_facts(run, note)}
    return StreamingResponse(answer.pieces, headers=headers, media_type=answer.media_type)


def _file(run: JobState, note: str) -> Response:
    if run.video_path is None:
        raise HTTPException(500, run.message)
    return FileResponse(run.video_path, media_type="video/mp4", headers=_facts(run, note))


def _facts(run: JobState, note: str) -> dict[str, str]:
    """Headers of every answer: what is odd, in sentences of ASCII, and for how many seconds the ranks worked."""
    headers = {"Cache-Control": "no-store", "X-Accel-Buffering": "no"}
    if text := " ".join(filter(None, (note, f"{run.warning}." if run.warning else ""))):
        headers["note"] = text.encode("ascii", "replace").decode()
    if run.started is not None and run.finished is not None:
        headers["seconds"] = f"{run.finished - run.started:.3f}"
    return headers
