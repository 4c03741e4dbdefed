"""diffusers' own remote_decode and remote_encode, unchanged, against the app: every output, and what scaling means."""

from __future__ import annotations

import io
import json
import threading
from collections.abc import Iterator

import imageio.v3 as iio
import numpy as np
import pytest
import requests
import torch
from diffusers.image_processor import VaeImageProcessor
from diffusers.utils.remote_utils import remote_decode, remote_encode
from diffusers.video_processor import VideoProcessor
from PIL import Image
from support.app_runner import wait_for
from support.page_server import Server, running_server
from support.remote_vae import address, local_floats, local_frames, local_latent, normalised, raw_latent
from support.tiny import tiny_vae

RAW = {"do_scaling": False}


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with running_server(tmp_path_factory.mktemp("server")) as server:
        yield server


@pytest.fixture(scope="module")
def decode_url(server: Server) -> str:
    return address(server, "vae/decode")


@pytest.fixture(scope="module")
def encode_url(server: Server) -> str:
    return address(server, "vae/encode")


@pytest.fixture(scope="module")
def frames() -> np.ndarray:
    return local_frames(raw_latent())


def as_array(images: list[Image.Image]) -> np.ndarray:
    return np.stack([np.array(image) for image in images])


# Decoding: the forms of the answer


def test_a_tensor_of_pixels(decode_url: str, frames: np.ndarray) -> None:
    options = {"output_type": "pt", "partial_postprocess": True, **RAW}
    tensor = remote_decode(decode_url, raw_latent(), return_type="pt", **options)
    assert tensor.dtype == torch.uint8 and np.array_equal(tensor.numpy(), frames)
    images = remote_decode(decode_url, raw_latent(), return_type="pil", **options)
    assert np.array_equal(as_array(images), frames)


def test_a_tensor_of_floats_is_finer_than_pixels(decode_url: str, frames: np.ndarray) -> None:
    tensor = remote_decode(decode_url, raw_latent(), output_type="pt", return_type="pt", **RAW)
    assert tensor.dtype == torch.float16 and tensor.shape == (1, 3, 5, 32, 24)
    assert (
        tensor.float() - local_floats(raw_latent())
    ).abs().max() <= 2**-12 + 2**-16  # float16, and 16 bits
    images = remote_decode(decode_url, raw_latent(), VideoProcessor(), output_type="pt", **RAW)
    assert np.abs(as_array(images).astype(int) - frames).max() <= 1


def test_pictures_of_a_video_come_with_a_processor(decode_url: str, frames: np.ndarray) -> None:
    images = remote_decode(decode_url, raw_latent(), VideoProcessor(), output_type="pil", **RAW)
    assert np.array_equal(as_array(images), frames)
    tensor = remote_decode(
        decode_url, raw_latent(), VideoProcessor(), output_type="pil", return_type="pt", **RAW
    )
    assert tensor.shape == (5, 3, 32, 24) and tensor.min() >= 0 and tensor.max() <= 1


def test_one_picture(decode_url: str) -> None:
    z = raw_latent(1)
    frame = local_frames(z)[0]
    image = remote_decode(decode_url, z, output_type="pil", image_format="png", **RAW)
    assert image.format == "png" and np.array_equal(np.array(image), frame)
    image = remote_decode(decode_url, z, output_type="pil", image_format="jpg", **RAW)
    assert image.format == "jpeg" and np.abs(np.array(image) - frame.astype(float)).mean() < 8
    for without_time in (z[:, :, 0].contiguous(), z[0]):
        image = remote_decode(decode_url, without_time, output_type="pil", image_format="png", **RAW)
        assert np.array_equal(np.array(image), frame)
    image = remote_decode(decode_url, z[:, :, 0].contiguous(), VaeImageProcessor(), output_type="pt", **RAW)
    assert np.abs(np.array(image).astype(int) - frame).max() <= 1
    with pytest.raises(RuntimeError, match="decodes to 5 frames, and a picture holds one"):
        remote_decode(decode_url, raw_latent(2), output_type="pil", **RAW)


def test_a_video_file(decode_url: str, frames: np.ndarray) -> None:
    data = remote_decode(decode_url, raw_latent(), output_type="mp4", return_type="mp4", **RAW)
    assert isinstance(data, bytes)
    assert iio.imread(data, plugin="FFMPEG", extension=".mp4").shape == frames.shape
    z = raw_latent()
    query = {"shape": list(z.shape), "dtype": "float32", "output_type": "mp4", "fps": 8}
    slower = requests.post(decode_url, z.numpy().tobytes(), params=query).content
    assert iio.immeta(slower, plugin="FFMPEG", extension=".mp4")["fps"] == 8


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_latents_of_other_types(decode_url: str, dtype: torch.dtype) -> None:
    z = raw_latent().to(dtype)
    options = {"output_type": "pt", "return_type": "pt", "partial_postprocess": True, **RAW}
    assert np.array_equal(remote_decode(decode_url, z, **options).numpy(), local_frames(z.float()))


# Scaling


def test_scaling_means_what_diffusers_means(decode_url: str) -> None:
    """latents / scaling_factor + shift_factor, for one number and for one per channel; do_scaling is the VAE's own."""
    z, config = raw_latent(), tiny_vae().config
    options = {"output_type": "pt", "return_type": "pt", "partial_postprocess": True}
    expected = local_frames(z).astype(int)

    def check(sent: torch.Tensor, **scaling: object) -> None:
        found = remote_decode(decode_url, sent, **options, **scaling).numpy()
        assert np.abs(found - expected).max() <= 1, scaling

    check(normalised(z), do_scaling=True)
    check(normalised(z))  # diffusers' default
    per_channel = {
        "scaling_factor": [1 / s for s in config.latents_std],
        "shift_factor": list(config.latents_mean),
    }
    check(normalised(z), **per_channel)
    check((z - 0.25) * 0.5, scaling_factor=0.5, shift_factor=0.25)
    check(z * 0.5, scaling_factor=0.5)
    with pytest.raises(RuntimeError, match="shift_factor without scaling_factor is unclear"):
        remote_decode(decode_url, z, shift_factor=0.25)
    for wrong in ([1.0, 2.0], 0.0, float("inf")):
        with pytest.raises(RuntimeError, match="scaling_factor"):
            remote_decode(decode_url, z, scaling_factor=wrong)


def test_a_doubtful_scaling_is_noted(decode_url: str) -> None:
    """diffusers has no place for a warning, so it is a header."""
    for z, query, note in (
        (raw_latent(), {}, None),
        (normalised(raw_latent()), {}, "decoded as raw, but looks normalised"),
        (normalised(raw_latent()), {"do_scaling": True}, None),
    ):
        query |= {"shape": list(z.shape), "dtype": "float32", "output_type": "pt"}
        answer = requests.post(decode_url, z.contiguous().numpy().tobytes(), params=query)
        assert answer.ok and (note is None) == ("note" not in answer.headers)
        assert note is None or note in answer.headers["note"]


def test_packed_latents_are_unpacked(decode_url: str) -> None:
    """Qwen-Image's pipelines pack 2x2 latent pixels into channels; height and width say how to undo it."""
    z = torch.randn(1, 16, 1, 4, 6, generator=torch.Generator().manual_seed(3))
    # As diffusers' `QwenImagePipeline._pack_latents` does, which needs transformers.
    packed = z.view(1, 16, 2, 2, 3, 2).permute(0, 2, 4, 1, 3, 5).reshape(1, 6, 64)
    size = {"height": 32, "width": 48}
    image = remote_decode(decode_url, packed, output_type="pil", image_format="png", **size, **RAW)
    assert np.array_equal(np.array(image), local_frames(z)[0])
    with pytest.raises(RuntimeError, match="does not fit 64x32 pixels"):
        remote_decode(decode_url, packed, height=32, width=64, **RAW)


# Encoding


def test_encoding(encode_url: str, frames: np.ndarray) -> None:
    expected = local_latent(frames)
    pixels = torch.from_numpy(frames)
    assert torch.allclose(remote_encode(encode_url, pixels), expected, atol=1e-5)
    for dtype in (torch.float32, torch.float16, torch.bfloat16):  # all three hold 8 bits
        # Contiguous: diffusers 0.42.1 sends memory as it lies, and frees a copy before it has read it.
        floats = pixels.permute(3, 0, 1, 2)[None].float().div(127.5).sub(1).to(dtype).contiguous()
        found = remote_encode(encode_url, floats)
        assert found.dtype == torch.float32 and torch.allclose(found, expected, atol=1e-5), dtype
    image = remote_encode(encode_url, Image.fromarray(frames[0]))
    assert torch.allclose(image, expected[:, :, :1], atol=1e-5)
    grey = Image.fromarray(frames[0, :, :, 0])
    shown = local_latent(np.array(grey.convert("RGB"))[None])
    assert torch.allclose(remote_encode(encode_url, grey), shown, atol=1e-5)
    picture = remote_encode(encode_url, pixels[:1].permute(0, 3, 1, 2).float().div(127.5).sub(1).contiguous())
    assert picture.shape == (1, 16, 4, 3), "no time in, no time out"


def test_scaling_of_encoded_latents(encode_url: str, decode_url: str, frames: np.ndarray) -> None:
    raw, config = local_latent(frames), tiny_vae().config
    pixels = torch.from_numpy(frames)
    assert torch.allclose(
        remote_encode(encode_url, pixels, scaling_factor=0.5, shift_factor=0.25),
        (raw - 0.25) * 0.5,
        atol=1e-5,
    )
    std, mean = config.latents_std, config.latents_mean
    found = remote_encode(encode_url, pixels, scaling_factor=[1 / s for s in std], shift_factor=list(mean))
    assert torch.allclose(found, normalised(raw), atol=1e-5)
    back = remote_decode(decode_url, found, output_type="pt", return_type="pt", partial_postprocess=True)
    assert np.abs(back.numpy() - local_frames(raw).astype(int)).max() <= 1, "what was encoded can be decoded"


def test_what_cannot_be_encoded(encode_url: str, frames: np.ndarray) -> None:
    pixels = torch.from_numpy(frames)
    for video, sentence in (
        (pixels[:4], "4 frames cannot be encoded: the number must be 1 . 4 k"),
        (pixels[:, :30], "its sides must be multiples of 8"),
        (pixels.float(), "A video of shape .* cannot be encoded"),
        (pixels.permute(3, 0, 1, 2)[None].float(), r"send floats in \[-1, 1\], or uint8"),
        (torch.full((1, 3, 1, 32, 32), float("nan")), r"send floats in \[-1, 1\], or uint8"),
    ):
        contiguous = video.contiguous()
        with pytest.raises(RuntimeError, match=sentence):
            remote_encode(encode_url, contiguous)
    answer = requests.post(encode_url, b"GIF89a" + bytes(100))
    assert answer.status_code == 400 and "is no PNG" in answer.json()["detail"]
    png = io.BytesIO()
    Image.fromarray(frames[0]).save(png, "PNG")
    answer = requests.post(encode_url, png.getvalue()[:-40])
    assert answer.status_code == 400 and "The PNG is damaged" in answer.json()["detail"]


# What is left


def test_several_at_once_and_nothing_is_left(server: Server, decode_url: str) -> None:
    clips = [raw_latent(seed=seed) for seed in range(4)]
    found: dict[int, np.ndarray] = {}

    def ask(index: int) -> None:
        options = {"output_type": "pt", "return_type": "pt", "partial_postprocess": True, **RAW}
        found[index] = remote_decode(decode_url, clips[index], **options).numpy()

    threads = [threading.Thread(target=ask, args=(index,)) for index in range(len(clips))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert all(np.array_equal(found[index], local_frames(clip)) for index, clip in enumerate(clips))
    wait_for(lambda: not server.jobs.runs(), 10)
    wait_for(lambda: not list(server.jobs.folder.glob("*")), 10)


def test_an_unknown_vae_is_refused_with_the_names(server: Server, decode_url: str) -> None:
    query = {"shape": [1, 16, 1, 4, 3], "dtype": "float32", "vae": "another"}
    answer = requests.post(decode_url, bytes(4 * 16 * 12), params=query)
    assert answer.status_code == 400 and server.jobs.vae.name in json.loads(answer.content)["detail"]
