"""load_vae and LoadedVae on one rank: their examples, equality with diffusers, and what they refuse."""

from __future__ import annotations

import doctest
import subprocess
import sys
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import AutoencoderKLWan
from support.distance import distance
from support.tiny import some_latent, tiny_checkpoint, tiny_vae
from torch import Tensor

import wanvae_app
from wanvae_app.api import loaded_vae
from wanvae_app.api.ranks import Ranks
from wanvae_app.formats.latents import to_raw
from wanvae_app.model.pixels import to_uint8
from wanvae_app.parallel.process_group import Group

pytestmark = pytest.mark.filterwarnings("ignore:The latent is decoded as raw")  # noise in it looks normalised
ROOT = Path(__file__).resolve().parents[2]


def tiny() -> wanvae_app.LoadedVae:
    return wanvae_app.LoadedVae(tiny_vae(torch.float64), Ranks(Group(0, 1, torch.device("cpu"))))


@pytest.fixture
def one_thread() -> Iterator[None]:
    """PyTorch on one thread: on a busy machine several wait for each other in every small convolution."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.mark.usefixtures("one_thread")
def test_the_examples_are_true() -> None:
    found = doctest.testmod(loaded_vae)
    assert found.attempted == 19 and not found.failed
    found = doctest.testfile(str(ROOT / "docs" / "library.md"), module_relative=False)
    assert found.attempted == 12 and not found.failed


def test_the_import_is_light() -> None:
    code = "import sys, wanvae_app; print(wanvae_app.__version__, 'torch' in sys.modules, 'gradio' in sys.modules); "
    code += "wanvae_app.load_vae; print('torch' in sys.modules, 'gradio' in sys.modules)"
    found = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert found.stdout.split() == [wanvae_app.__version__, "False", "False", "True", "False"]


def test_three_lines_from_a_diffusers_pipeline(tmp_path: Path) -> None:
    """A normalised latent, as output_type="latent" gives it, decodes to diffusers' own frames, and back."""
    torch.manual_seed(3)
    theirs = AutoencoderKLWan(base_dim=8, z_dim=16).eval().requires_grad_(False)
    theirs.save_pretrained(tmp_path / "vae")
    latent = some_latent(3)

    def diffusers_decode(dtype: torch.dtype) -> Tensor:
        """Decode as WanPipeline.__call__ does."""
        mean, std = statistics(dtype)
        frames: Tensor = theirs.to(dtype).decode(latent.to(dtype) * std + mean).sample
        return frames

    def statistics(dtype: torch.dtype) -> tuple[Tensor, ...]:
        both = theirs.config.latents_mean, theirs.config.latents_std
        return tuple(torch.tensor(values, dtype=dtype).view(-1, 1, 1, 1) for values in both)

    expected = diffusers_decode(torch.float32)
    mean, std = statistics(torch.float32)
    moments = (theirs.encode(expected).latent_dist.mode() - mean) / std
    their_error = distance(diffusers_decode(torch.bfloat16), expected)

    vae = wanvae_app.load_vae(tmp_path, "fp32", "cpu")
    frames = vae.decode(latent, scaling="normalised", output="float")
    assert distance(frames, expected) < 1e-5
    assert distance(vae.encode(frames, scaling="normalised"), moments) < 1e-5
    assert distance(vae.decode(latent, scaling="raw", output="float"), expected) > 0.1  # so scaling matters
    vae = wanvae_app.load_vae(tmp_path, torch.bfloat16, "cpu")
    frames = vae.decode(latent, scaling="normalised", output="float")
    assert frames.dtype == torch.bfloat16
    assert distance(frames, expected) < 1.1 * their_error


@pytest.mark.parametrize("chunk", [1, 2, 7])
def test_streams_are_the_whole_clip_in_chunks(chunk: int) -> None:
    vae, latent = tiny(), some_latent(4).double()
    raw = to_raw(latent, vae.config, "normalised")
    whole = vae.decode(raw, scaling="raw", output="float")
    parts = list(vae.decode_stream(latent[0], scaling="normalised", output="float", chunk=chunk))
    assert [part.shape[2] for part in parts] == [1, *{1: (4, 4, 4), 2: (8, 4), 7: (12,)}[chunk]]
    assert distance(torch.cat(parts, 2), whole) < 1e-12
    pixels = vae.decode(latent, scaling="normalised", chunk=chunk)
    assert torch.equal(pixels, to_uint8(whole))
    expected = vae.encode(pixels.numpy(), scaling="raw")
    latents = list(vae.encode_stream(pixels, scaling="normalised", chunk=chunk))
    assert distance(to_raw(torch.cat(latents, 2), vae.config, "normalised"), expected) < 1e-12


@pytest.mark.parametrize("lengths", [[1] * 13, [5, 3, 5], [13]])
def test_frames_can_be_encoded_as_they_come(lengths: list[int]) -> None:
    """Parts of any length give the latents of the whole video, and no more is taken than a chunk needs."""
    vae, taken = tiny(), 0
    video = torch.randint(0, 256, (13, 32, 24, 3), dtype=torch.uint8)

    def parts() -> Iterator[Any]:
        nonlocal taken
        for part in video.split(lengths):
            taken += len(part)
            yield part[0].numpy() if len(part) == 1 else part

    stream = vae.encode_stream(parts(), scaling="raw", chunk=2)
    latents = [next(stream)]
    assert taken == lengths[0]
    latents += stream
    assert [latent.shape[2] for latent in latents] == [1, 2, 1]
    assert distance(torch.cat(latents, 2), vae.encode(video, scaling="raw")) < 1e-12
    floats = (part / 127.5 - 1 for part in video.double().permute(3, 0, 1, 2).unbind(1))
    assert distance(torch.cat(list(vae.encode_stream(floats, scaling="raw")), 2), torch.cat(latents, 2)) < 0.1


def test_frames_that_fill_no_latent_frame_are_left_out() -> None:
    vae = tiny()
    video = torch.randint(0, 256, (8, 32, 24, 3), dtype=torch.uint8)
    with pytest.warns(UserWarning, match="The last 3 of 8 frames are not encoded") as warned:
        latents = list(vae.encode_stream(iter(video), scaling="raw", chunk=2))
    assert warned[0].filename == __file__
    assert distance(torch.cat(latents, 2), vae.encode(video[:5], scaling="raw")) < 1e-12


def test_a_broken_iterator_ends_the_stream() -> None:
    vae = tiny()
    for parts, sentence in (
        ([], "no frames"),
        ([BYTES[0, :30]], "multiples of 8"),
        (["frame"], "not str"),
        (5 * [BYTES[0]] + [BYTES[0, :16]], "change from 24x32 of torch.uint8 to 24x16"),
        ((BYTES[1 // index] for index in (1, 1, 0)), "by zero"),
    ):
        with pytest.raises((ValueError, ZeroDivisionError), match=sentence):
            list(vae.encode_stream(parts, scaling="raw"))  # type: ignore[arg-type]
    assert vae.encode(BYTES, scaling="raw").shape[2] == 2


def test_results_can_be_written_to_and_streams_be_left() -> None:
    vae = tiny()
    vae.decode(some_latent(1), scaling="raw", output="float").add_(1)  # not so a tensor of inference mode
    for frames in vae.decode_stream(some_latent(3), scaling="raw", output="float"):
        frames.add_(1)
        break
    assert len(vae.decode(some_latent(2), scaling="raw")) == 5


BYTES = torch.zeros(5, 32, 24, 3, dtype=torch.uint8)
REFUSED: dict[str, tuple[str, Any, dict[str, Any], str]] = {
    "scaling": ("decode", some_latent(1), {"scaling": "Normalized"}, "give 'raw' or 'normalised'"),
    "output": ("decode", some_latent(1), {"output": "int8"}, "give 'uint8' or 'float'"),
    "chunk": ("decode", some_latent(1), {"chunk": 0}, "give 1 or more"),
    "nothing": ("decode", None, {}, "not NoneType"),
    "integers": ("decode", some_latent(1).long(), {}, r"not a tensor of torch\.int64"),
    "batch": ("decode", some_latent(1).expand(2, -1, -1, -1, -1), {}, "one after the other"),
    "channels": ("decode", some_latent(1)[:, :4], {}, r"takes \[1, 16, T, H, W\]"),
    "NaN": ("decode", some_latent(1) * torch.nan, {}, "not finite"),
    "no video": ("encode", None, {}, "not NoneType"),
    "frames": ("encode", BYTES[:4], {}, r"must be 1 \+ 4 k"),
    "sides": ("encode", BYTES[:, :30], {}, "multiples of 8"),
    "order": ("encode", BYTES.permute(3, 0, 1, 2), {}, r"\[T, H, W, 3\]"),
    "range": (
        "encode",
        BYTES.permute(3, 0, 1, 2).float() + 255,
        {},
        r"between 255 and 255; floats must be in",
    ),
    "channels last": ("encode", BYTES.float(), {}, r"shape \[5, 32, 24, 3\] cannot be encoded"),
    "strings": ("encode", np.array(["a"]), {}, "cannot be encoded|array"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_cannot_be_coded_is_refused_at_the_call(name: str) -> None:
    method, clip, options, sentence = REFUSED[name]
    options = {"scaling": "raw", **options}
    for suffix in ("", "_stream"):
        with pytest.raises(ValueError, match=sentence):
            getattr(tiny(), method + suffix)(clip, **options)


def test_what_is_likely_wrong_is_warned_of() -> None:
    """Real clips of the other scaling, or with another black, are coded as asked; the caller's line is named."""
    vae, normalised = tiny(), some_latent(3)
    raw = to_raw(normalised, vae.config, "normalised")
    for latent, wrong, sentence in (
        (normalised, "raw", "looks normalised"),
        (raw, "normalised", "looks raw"),
    ):
        with pytest.warns(UserWarning, match=sentence) as warned:
            vae.decode(latent, scaling=wrong)
        assert warned[0].filename == __file__
    with pytest.warns(UserWarning, match="multiply by 2 and subtract 1") as warned:
        vae.encode(torch.rand(1, 3, 1, 32, 24), scaling="raw")
    assert warned[0].filename == __file__
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        vae.decode(normalised, scaling="normalised")
        vae.decode(raw, scaling="raw")
        vae.encode(torch.rand(1, 3, 1, 32, 24) * 2 - 1, scaling="raw")


def test_scaling_has_no_default() -> None:
    for method in ("decode", "decode_stream", "encode", "encode_stream"):
        with pytest.raises(TypeError, match="scaling"):
            getattr(tiny(), method)(some_latent(1))


def test_a_clip_without_memory_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("wanvae_app.api.ranked_clip.free_bytes", lambda device: 1 << 20)
    latent: Tensor = torch.zeros(16, 3, 64, 64)
    with pytest.raises(MemoryError, match="memory|GiB|MiB"):
        tiny().decode(latent, scaling="raw")


@pytest.mark.parametrize(
    "options, sentence",
    [
        ({"dtype": "int8"}, "Unknown dtype 'int8'; choose auto"),
        ({"dtype": torch.int8}, r"cannot be in torch\.int8; choose auto"),
        ({"device": "tpu"}, "give auto, cpu, cuda or cuda:N"),
        ({"device": "meta"}, "give auto, cpu, cuda or cuda:N"),
        ({"device": "cuda:99"}, "PyTorch finds"),
        ({"source": "no such file.pth"}, "There is no file"),
    ],
)
def test_load_vae_refuses_in_a_sentence(tmp_path: Path, options: dict[str, Any], sentence: str) -> None:
    arguments = {"source": tiny_checkpoint(tmp_path / "vae.safetensors"), "device": "cpu", **options}
    with pytest.raises(ValueError, match=sentence):
        wanvae_app.load_vae(**arguments)
