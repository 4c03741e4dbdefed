"""ClipCoder: reads a file, codes it, and writes its result, with reading and writing beside the coding."""

from __future__ import annotations

import argparse
import contextlib
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor

from wanvae_app.api.loaded_vae import LoadedVae
from wanvae_app.cli.clip_files import ClipFile
from wanvae_app.cli.clip_inputs import LatentInput, VideoInput, read_latent_input, read_video_input
from wanvae_app.cli.clip_outputs import WRITERS, FeedEnded, FrameFeed, whole_or_nothing
from wanvae_app.cli.clip_report import Outcome, Reporter
from wanvae_app.device import device_fault
from wanvae_app.errors import describe
from wanvae_app.formats.latents import LatentFormat, write_latent
from wanvae_app.formats.outputs import find_output
from wanvae_app.model.pixels import to_uint16
from wanvae_app.parallel.process_group import GroupLost

MAX_WRITING = 2  # files that are being finished at a time
FPS, FPS_2_2 = 16.0, 24.0  # frames per second that Wan 2.1 and 2.2 generate

Input = LatentInput | VideoInput


class ClipCoder:
    """Codes files with a VAE: on the ranks that this VAE has, of which this is rank 0.

    `folder` holds what is not finished. `before` is called before a clip is coded, when all that needs no other ranks
    is done. If this rank `is_alone`, all ranks together may have the memory that it lacks for a clip.
    """

    def __init__(
        self,
        vae: LoadedVae,
        options: argparse.Namespace,
        folder: Path,
        reporter: Reporter,
        *,
        is_alone: bool = False,
        before: Callable[[], None] = lambda: None,
    ) -> None:
        self.vae = vae
        self.options = options
        self.folder = folder
        self.reporter = reporter
        self.is_alone = is_alone
        self.before = before
        self._reader = ThreadPoolExecutor(1, "reader")
        self._writer = ThreadPoolExecutor(MAX_WRITING, "writer")
        self._writing: deque[Future[None]] = deque()

    def code_all(self, files: Mapping[int, ClipFile], indices: Sequence[int]) -> None:
        """Code these of the files, each while the next one is read, and report how it went.

        Reports nothing of a clip that a rank alone lacks memory for. Raises GroupLost if a rank, or this one's device,
        is gone.
        """
        reading = [self._reader.submit(self._read, files[index]) for index in indices[:1]]
        for place, index in enumerate(indices):
            clip = None
            try:
                clip = reading.pop().result()
            except Exception as error:  # whatever a file may provoke: the others go on
                self._fail(index, error)
            reading += [self._reader.submit(self._read, files[i]) for i in indices[place + 1 : place + 2]]
            if clip is not None:
                with contextlib.closing(clip):
                    self._code(index, files[index], clip)
        while self._writing:
            self._writing.popleft().result()

    def _code(self, index: int, file: ClipFile, clip: Input) -> None:
        """Code one clip, and report a failure."""
        try:
            if isinstance(clip, LatentInput):
                self._decode(index, file, clip)
            else:
                self._encode(index, file, clip)
        except GroupLost:
            raise
        except FeedEnded:  # the writer has said why
            return
        except (MemoryError, torch.OutOfMemoryError) as error:
            if not self.is_alone:
                self._fail(index, error)
        except Exception as error:
            if fault := device_fault(self.vae.device):
                raise self.vae.group.lose_device(f"rank {self.vae.rank} lost its GPU ({fault})") from error
            self._fail(index, error)

    def _read(self, file: ClipFile) -> Input:
        if self.options.command == "decode":
            return read_latent_input(file.source, self.vae.config, self.options.scaling)
        return read_video_input(file.source, self.vae.config, self.folder)

    def _decode(self, index: int, file: ClipFile, clip: LatentInput) -> None:
        config, options, started = self.vae.config, self.options, time.monotonic()
        num_frames = config.num_frames(clip.latent.shape[2])
        self.before()
        is_deep = find_output(options.format).frame_bits == 16
        output: Literal["float", "uint8"] = "float" if is_deep else "uint8"
        stream = self.vae.decode_stream(
            clip.latent,
            scaling=clip.scaling,  # type: ignore[arg-type]
            output=output,
            chunk=options.chunk,
        )
        self.reporter.begin(index, num_frames)
        fps = options.fps or clip.fps or (FPS_2_2 if config.residual else FPS)
        while len(self._writing) >= MAX_WRITING:
            self._writing.popleft().result()
        feed = FrameFeed()

        def write() -> None:
            """Write the video while its frames come, in the writer's thread, and report how it went."""
            try:
                with whole_or_nothing(file.result, self.folder / str(index)) as path:
                    WRITERS[options.format](feed, num_frames, path, fps)
            except FeedEnded:  # decoding failed, which is reported
                return
            except Exception as error:  # whatever a disk may provoke: the other files go on
                feed.fail()
                self._fail(index, error)
            else:
                self._finish(index, num_frames, started, clip.notes)

        self._writing.append(self._writer.submit(write))
        try:
            with _closing(stream):
                for frames in stream:
                    pixels = to_uint16(frames) if is_deep else frames
                    feed.put(pixels.cpu().numpy())
                    self.reporter.advance(index, len(pixels))
            feed.put(None)
        except BaseException:
            feed.fail()
            raise

    def _encode(self, index: int, file: ClipFile, clip: VideoInput) -> None:
        num_frames, config, started = len(clip.log), self.vae.config, time.monotonic()
        self.before()
        stream = self.vae.encode_stream(clip.frames(), scaling="raw", chunk=self.options.chunk)
        self.reporter.begin(index, num_frames)
        latents: list[Tensor] = []
        with _closing(stream):
            for z in stream:
                factor = config.temporal_factor if latents else 1
                self.reporter.advance(index, z.shape[2] * factor)
                latents.append(z.cpu())
        with whole_or_nothing(file.result, self.folder / str(index)) as path:
            saved = LatentFormat(self.options.scaling, is_comfyui=self.options.format == "comfyui")
            write_latent(torch.cat(latents, 2), path, config, saved, clip.fps)
        self._finish(index, num_frames, started, clip.notes)

    def _finish(self, index: int, num_frames: int, started: float, notes: list[str]) -> None:
        seconds = time.monotonic() - started
        self.reporter.end(Outcome(index, "done", num_frames, seconds, self.vae.group.size, "", notes))

    def _fail(self, index: int, error: Exception) -> None:
        self.reporter.end(Outcome(index, "failed", error=sentence(error)))


def sentence(error: Exception) -> str:
    """What went wrong, as a sentence."""
    if isinstance(error, OSError) and error.strerror:
        text = f"{error.strerror}: {error.filename}" if error.filename else error.strerror
    elif isinstance(error, (ValueError, OSError, MemoryError)) or type(error) is RuntimeError:
        text = str(error) or describe(error)
    else:
        text = describe(error)
    text = text.strip().partition("\n")[0]
    if text.startswith("rank "):
        text = f"R{text[1:]}"
    return text.rstrip(".") + "."


@contextlib.contextmanager
def _closing(stream: Iterator[Tensor]) -> Iterator[None]:
    """End a stream on all ranks when the block is left early."""
    try:
        yield
    finally:
        stream.close()  # type: ignore[attr-defined]
