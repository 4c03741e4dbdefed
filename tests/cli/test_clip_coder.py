"""Files coded one after the other on one rank: results, failures, and what is said of them."""

from __future__ import annotations

import io
import json
import zipfile
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import imageio.v3 as iio
import numpy as np
import pytest
import tifffile
import torch
from safetensors.torch import load_file
from support.clips import latent_file
from support.tiny import some_latent, tiny_vae
from support.video_files import pattern

import wanvae_app
from wanvae_app.api.ranks import Ranks
from wanvae_app.cli import clip_coder, clip_inputs, clip_outputs
from wanvae_app.cli.clip_coder import ClipCoder
from wanvae_app.cli.clip_launch import plan_files
from wanvae_app.cli.clip_options import parse_clip_options
from wanvae_app.cli.clip_outputs import FeedEnded, FrameFeed, whole_or_nothing
from wanvae_app.cli.clip_report import ClipReport
from wanvae_app.formats.latents import (
    NOT_CERTAIN,
    ScalingGuess,
    read_latent,
    stored_scaling,
    to_normalised,
)
from wanvae_app.model.pixels import to_uint16
from wanvae_app.parallel.process_group import Group

Code = Callable[..., tuple[int, list[dict[str, Any]]]]


pytestmark = pytest.mark.filterwarnings("ignore:The latent is decoded as raw")  # it is, to test that


@pytest.fixture
def vae() -> wanvae_app.LoadedVae:
    return wanvae_app.LoadedVae(tiny_vae(), Ranks(Group(0, 1, torch.device("cpu"))))


@pytest.fixture
def code(tmp_path: Path, vae: wanvae_app.LoadedVae, capsys: pytest.CaptureFixture[str]) -> Code:
    """A function that codes files; it returns the exit code and the lines of JSON."""

    def run(command: str, *arguments: str | Path) -> tuple[int, list[dict[str, Any]]]:
        options = parse_clip_options(command, [*map(str, arguments), "--json"], command)
        files = plan_files(options)
        report, folder = ClipReport(files, as_json=True), tmp_path / "out" / ".unfinished"
        folder.mkdir(parents=True)
        ClipCoder(vae, options, folder, report).code_all(dict(enumerate(files)), range(len(files)))
        assert not list(folder.iterdir())
        folder.rmdir()
        exit_code = report.close()
        return exit_code, [json.loads(line) for line in capsys.readouterr().out.splitlines()]

    return run


def frames_of(path: str) -> np.ndarray:
    return np.stack([frame for frame in iio.imiter(path, plugin="FFMPEG")])


def test_latents_become_videos_and_a_bad_file_stops_nothing(
    tmp_path: Path, code: Code, vae: wanvae_app.LoadedVae
) -> None:
    for name, length in (("a.safetensors", 3), ("c.pt", 1), ("deep/d.pt", 2)):
        latent_file(tmp_path / "in" / name, length)
    (tmp_path / "in" / "b.pt").write_bytes(b"no tensor")
    exit_code, lines = code(
        "decode", tmp_path / "in", "--out", tmp_path / "out", "--chunk", "2", "--fps", "10"
    )
    assert exit_code == 1
    by_name = {Path(line["input"]).name: line for line in lines}
    assert {name: (line["status"], line["frames"]) for name, line in by_name.items()} == {
        "a.safetensors": ("done", 9), "b.pt": ("failed", 0), "c.pt": ("done", 1), "d.pt": ("done", 5),
    }  # fmt: skip
    assert by_name["b.pt"]["error"].startswith("b.pt is not a latent") and by_name["b.pt"]["output"] is None
    assert by_name["d.pt"]["output"] == str(tmp_path / "out" / "deep" / "d.mp4")
    found = frames_of(by_name["a.safetensors"]["output"])
    expected = vae.decode(some_latent(3), scaling="normalised").numpy()
    assert found.shape == expected.shape
    assert np.abs(found.mean((1, 2)) - expected.mean((1, 2))).max() < 4  # H.264 of noise
    assert iio.immeta(by_name["a.safetensors"]["output"], plugin="FFMPEG")["fps"] == 10


@pytest.mark.parametrize("name", ["png", "tiff"])
def test_frames_are_written_in_the_format_that_is_named(
    name: str, tmp_path: Path, code: Code, vae: wanvae_app.LoadedVae
) -> None:
    latent_file(tmp_path / "a.safetensors", 2)
    exit_code, lines = code("decode", tmp_path / "a.safetensors", "--out", tmp_path / "out", "--format", name)
    assert exit_code == 0 and lines[0]["output"] == str(tmp_path / "out" / f"a-{name}.zip")
    with zipfile.ZipFile(lines[0]["output"]) as archive:
        pictures = [io.BytesIO(archive.read(each)) for each in archive.namelist()]
    if name == "png":
        expected = vae.decode(some_latent(2), scaling="normalised").numpy()
        assert np.array_equal(np.stack([iio.imread(each) for each in pictures]), expected)
    else:
        exact = vae.decode(some_latent(2), scaling="normalised", output="float")
        expected = to_uint16(exact).numpy()
        assert np.array_equal(np.stack([tifffile.imread(each) for each in pictures]), expected)


def test_scaling_is_chosen_and_doubt_is_said(
    tmp_path: Path, code: Code, monkeypatch: pytest.MonkeyPatch
) -> None:
    taken: list[str] = []
    decode_stream = wanvae_app.LoadedVae.decode_stream

    def noted(self: wanvae_app.LoadedVae, latent: Any, **options: Any) -> Any:
        taken.append(options["scaling"])
        return decode_stream(self, latent, **options)

    monkeypatch.setattr(wanvae_app.LoadedVae, "decode_stream", noted)
    doubt = ScalingGuess("raw", f"Probably raw{NOT_CERTAIN}.")
    latent_file(tmp_path / "flat.pt")
    latent_file(tmp_path / "stated.safetensors")
    with monkeypatch.context() as patch:
        patch.setattr(clip_inputs, "guess_scaling", lambda *_: doubt)
        _, lines = code(
            "decode", tmp_path / "flat.pt", tmp_path / "stated.safetensors", "--out", tmp_path / "out"
        )
    flat, stated = sorted(lines, key=lambda line: line["input"])
    assert taken[1] == "normalised" and not any("certain" in note for note in stated["notes"])
    assert taken[0] == "raw" and any("give --scaling normalised if" in note for note in flat["notes"])
    _, (line,) = code(
        "decode", tmp_path / "stated.safetensors", "--out", tmp_path / "out", "--scaling", "raw"
    )
    assert taken[2] == "raw" and "Decoded as raw, but it looks normalised." in line["notes"]


def test_videos_become_latents(tmp_path: Path, code: Code, vae: wanvae_app.LoadedVae) -> None:
    pattern(tmp_path / "clip.mp4", frames=11)
    (tmp_path / "bad.mp4").write_bytes(b"no video")
    exit_code, lines = code(
        "encode", tmp_path / "clip.mp4", tmp_path / "bad.mp4", "--out", tmp_path / "out", "--chunk", "1"
    )
    assert exit_code == 1 and [line["status"] for line in lines] == ["done", "failed"]
    assert lines[0]["frames"] == 9 and "cut from 11 to 9 frames" in lines[0]["notes"][0]
    path = Path(lines[0]["output"])
    assert path == tmp_path / "out" / "clip.safetensors" and stored_scaling(path) == "normalised"
    video = frames_of(str(tmp_path / "clip.mp4"))[:9]
    expected = vae.encode(video, scaling="normalised")
    assert (read_latent(path, vae.config) - expected).abs().max() < 0.1  # another conversion of colours


def test_a_round_trip_keeps_the_rate(tmp_path: Path, code: Code) -> None:
    """Through the file's metadata, in both formats."""
    pattern(tmp_path / "clip.mp4", rate=25, frames=5)
    for format, name in (("safetensors", "clip.safetensors"), ("comfyui", "clip.latent")):
        code("encode", tmp_path / "clip.mp4", "--out", tmp_path / format, "--format", format)
        code("decode", tmp_path / format / name, "--out", tmp_path / format)
        fps = iio.immeta(tmp_path / format / "clip.mp4", plugin="FFMPEG")["fps"]
        assert fps == 25


def test_raw_latents_are_said_to_be_raw(tmp_path: Path, code: Code, vae: wanvae_app.LoadedVae) -> None:
    pattern(tmp_path / "clip.mp4", frames=1)
    code("encode", tmp_path / "clip.mp4", "--out", tmp_path / "out")
    normalised = load_file(tmp_path / "out" / "clip.safetensors")["latent"]
    (tmp_path / "out" / "clip.safetensors").unlink()
    code("encode", tmp_path / "clip.mp4", "--out", tmp_path / "out", "--scaling", "raw")
    raw = load_file(tmp_path / "out" / "clip.safetensors")["latent"]
    assert stored_scaling(tmp_path / "out" / "clip.safetensors") == "raw"
    assert (to_normalised(raw, vae.config) - normalised).abs().max() < 1e-5
    code("encode", tmp_path / "clip.mp4", "--out", tmp_path / "out", "--format", "comfyui")
    assert torch.equal(load_file(tmp_path / "out" / "clip.latent")["latent_tensor"], raw)


@pytest.mark.parametrize("fault", ["decoding", "writing", "placing"])
def test_a_fault_leaves_no_file_and_the_next_one_is_coded(
    fault: str, tmp_path: Path, code: Code, vae: wanvae_app.LoadedVae, monkeypatch: pytest.MonkeyPatch
) -> None:
    latent_file(tmp_path / "a.pt", 6), latent_file(tmp_path / "b.pt")
    calls: list[object] = []
    decode, write = vae.model.decode, clip_coder.WRITERS["mp4"]

    def failing_decode(z: Any, state: Any) -> Any:
        calls.append(z)
        if len(calls) == 3:
            raise RuntimeError("a rigged fault")
        return decode(z, state)

    def failing_write(frames: Any, num_frames: int, path: Path, rate: float) -> None:
        calls.append(path)
        if len(calls) > 1:
            return write(frames, num_frames, path, rate)
        path.write_bytes(next(iter(frames)).tobytes())
        raise OSError(28, "No space left on device")

    if fault == "decoding":
        monkeypatch.setattr(vae.model, "decode", failing_decode)
    elif fault == "writing":
        monkeypatch.setitem(clip_coder.WRITERS, "mp4", failing_write)
    else:
        (tmp_path / "out" / "a.mp4").mkdir(parents=True)
    exit_code, lines = code(
        "decode", tmp_path / "a.pt", tmp_path / "b.pt", "--out", tmp_path / "out", "--overwrite"
    )
    assert exit_code == 1
    assert {Path(line["input"]).stem: line["status"] for line in lines} == {"a": "failed", "b": "done"}
    assert next(line["error"] for line in lines if line["error"]).endswith(".")
    assert [path for path in (tmp_path / "out").iterdir() if path.is_file()] == [tmp_path / "out" / "b.mp4"]


def test_frames_are_handed_over_and_few_are_held() -> None:
    feed, taken = FrameFeed(), []
    frames = np.arange(5, dtype=np.uint8)[:, None, None, None] * np.ones((2, 2, 3), np.uint8)

    def write(batches: Any, path: Path, rate: float) -> None:
        taken.extend(
            batches.read(start, min(start + 2, len(batches)))[:, 0, 0, 0].tolist() for start in (0, 2, 4)
        )

    with ThreadPoolExecutor(1) as pool, pytest.MonkeyPatch.context() as patch:
        patch.setattr(clip_outputs, "write_mp4", write)
        writing = pool.submit(clip_outputs.write_as_mp4, feed, 5, Path(), 16)
        for part in (frames[:1], frames[1:], None):
            feed.put(part)
        writing.result()
    assert taken == [[0, 1], [2, 3], [4]] and not list(feed)
    feed.fail()
    for failing in (lambda: list(feed), lambda: feed.put(frames)):
        with pytest.raises(FeedEnded):
            failing()


def test_a_result_is_whole_or_not_there(tmp_path: Path) -> None:
    result = tmp_path / "deep" / "x.mp4"
    with pytest.raises(ValueError), whole_or_nothing(result, tmp_path / "growing") as path:
        path.write_bytes(b"half")
        raise ValueError
    assert not list(tmp_path.iterdir())
    with whole_or_nothing(result, tmp_path / "growing") as path:
        path.write_bytes(b"whole")
        assert not result.exists()
    assert result.read_bytes() == b"whole" and not (tmp_path / "growing").exists()
