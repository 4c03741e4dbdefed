"""An MP4 shows the colours of its frames, in every player and at every size."""

from __future__ import annotations

import base64
import re
import subprocess
from pathlib import Path

import imageio_ffmpeg
import numpy as np
import pytest
from playwright.sync_api import Browser

from wanvae_app.formats.mp4 import write_mp4
from wanvae_app.frame_log import FrameLog

SIZES = (
    (832, 480),
    (480, 832),
    (1280, 720),
)  # below 720 lines, untagged colours are taken for those of old television
COLOURS = np.array(
    [
        [(255, 0, 0), (0, 255, 0), (0, 0, 255), (255, 255, 255)],
        [(0, 0, 0), (128, 128, 128), (200, 120, 60), (30, 90, 160)],
    ],
    np.uint8,
)
# BT.709 in limited range: ITU-R BT.709, items 3.2 to 3.5.
RED_OF_CR, BLUE_OF_CB, RED_SHARE, BLUE_SHARE = 1.5748, 1.8556, 0.2126, 0.0722
SHOW_COLOURS = """async (video) => {
    const element = document.createElement("video");
    if (!element.canPlayType('video/mp4; codecs="avc1.640028"')) return null;
    element.muted = true;
    element.src = `data:video/mp4;base64,${video}`;
    await new Promise((resolve, reject) => {
        element.requestVideoFrameCallback(resolve);
        element.onerror = () => reject(element.error.message);
        element.play();
    });
    const { videoWidth: width, videoHeight: height } = element;
    const context = new OffscreenCanvas(width, height).getContext("2d");
    context.drawImage(element, 0, 0);
    const pixel = (row, column) =>
        [...context.getImageData((column + 0.5) * width / 4, (row + 0.5) * height / 2, 1, 1).data].slice(0, 3);
    return [0, 1].map((row) => [0, 1, 2, 3].map((column) => pixel(row, column)));
}"""


def patches(path: Path, width: int, height: int) -> Path:
    """Write an MP4 that shows each of COLOURS in a patch of its own."""
    frame = COLOURS.repeat(height // 2, 0).repeat(width // 4, 1)
    log = FrameLog(height, width, None)
    log.append(frame[None].repeat(5, 0))
    write_mp4(log, path, 16.0)
    return path


def blue_of_libyuv(colours: np.ndarray) -> np.ndarray:
    """The blue that Chromium shows where a CPU converts its videos: up to 12 levels off, whoever wrote the file.

    libyuv's coefficients have 6 bits behind the point, and a byte holds them: 2 takes the place of 2.11, which BT.709
    has for blue of Cb (kYuvH709Constants in row_common.cc of libyuv).
    """
    red, green, blue = np.moveaxis(colours / 255, -1, 0)
    luma = RED_SHARE * red + (1 - RED_SHARE - BLUE_SHARE) * green + BLUE_SHARE * blue
    cb = (blue - luma) / BLUE_OF_CB
    return (255 * luma + 224 * 128 / 64 * cb).clip(0, 255)


def run(path: Path, *options: str) -> subprocess.CompletedProcess[bytes]:
    command = [imageio_ffmpeg.get_ffmpeg_exe(), "-i", str(path), *options]
    return subprocess.run(command, capture_output=True, check=True)


@pytest.mark.parametrize(("width", "height"), SIZES)
def test_the_colours_are_tagged_and_right(tmp_path: Path, width: int, height: int) -> None:
    path = patches(tmp_path / "a.mp4", width, height)
    decoded = run(path, "-vf", "showinfo", "-frames:v", "1", "-f", "null", "-").stderr.decode()
    tags = dict(re.findall(r"color_(range|space|primaries|trc):(\w+)", decoded))
    assert tags == {"range": "tv", "space": "bt709", "primaries": "bt709", "trc": "bt709"}
    raw = run(path, "-frames:v", "1", "-pix_fmt", "yuv420p", "-f", "rawvideo", "pipe:1").stdout
    samples = np.frombuffer(raw, np.uint8).astype(float)
    luma, chroma = np.split(samples, [width * height])
    y = (luma.reshape(height, width)[height // 4 :: height // 2, width // 8 :: width // 4] - 16) / 219
    chroma = (chroma.reshape(2, height // 2, width // 2) - 128) / 224
    cb, cr = chroma[:, height // 8 :: height // 4, width // 16 :: width // 8]
    red, blue = y + RED_OF_CR * cr, y + BLUE_OF_CB * cb
    green = (y - RED_SHARE * red - BLUE_SHARE * blue) / (1 - RED_SHARE - BLUE_SHARE)
    shown = 255 * np.stack([red, green, blue], -1).clip(0, 1)
    assert np.abs(shown - COLOURS).max() <= 2


def test_a_browser_shows_them(tmp_path: Path, browser: Browser) -> None:
    page = browser.new_page()
    try:
        for width, height in SIZES:
            video = base64.b64encode(patches(tmp_path / "a.mp4", width, height).read_bytes()).decode()
            shown = page.evaluate(SHOW_COLOURS, video)
            if shown is None:
                pytest.skip("this browser plays no H.264")
            error = np.abs(np.array(shown) - COLOURS)
            error[..., 2] = np.minimum(
                error[..., 2], np.abs(np.array(shown)[..., 2] - blue_of_libyuv(COLOURS))
            )
            assert error.max() <= 2, f"{width}x{height}: {shown}"
    finally:
        page.close()
