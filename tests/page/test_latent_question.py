"""What a file of latents leaves open is asked with pictures, and the answer is how the run reads it."""

from __future__ import annotations

import base64
import io
import json
import re
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import gradio as gr
import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file
from support.app_runner import wait_for
from support.simulated_latents import Scene, simulate
from support.tiny import some_video, tiny_vae
from torch import Tensor

from wanvae_app.config import PRESETS
from wanvae_app.formats.latents import LATENT_FORMATS, convert_latent, read_latent, to_raw, write_latent
from wanvae_app.formats.mp4 import write_mp4
from wanvae_app.jobs.service import JobService
from wanvae_app.page.handlers import EventHandlers
from wanvae_app.page.history import History
from wanvae_app.page.latent_question import LatentQuestions
from wanvae_app.page.latent_readings import Answer, find_readings
from wanvae_app.page.run_json import state_json
from wanvae_app.parallel.process_group import Group

WAN = PRESETS["wan2.1"]
REQUEST: Any = SimpleNamespace(cookies={"wanvae": "ann"}, client=None, session_hash="s")
DOUBTFUL = torch.tensor(WAN.latents_mean).view(1, 16, 1, 1, 1).expand(1, 16, 1, 4, 4) / 2


@pytest.fixture(scope="module")
def jobs(tmp_path_factory: pytest.TempPathFactory) -> Iterator[JobService]:
    folder = tmp_path_factory.mktemp("question")
    jobs = JobService(Group(0, 1, torch.device("cpu")), tiny_vae(), folder / "runs")
    yield jobs
    jobs.close()


@pytest.fixture
def handlers(jobs: JobService) -> EventHandlers:
    return EventHandlers(jobs, History(jobs), [])


def clip(num_latents: int = 2, contrast: float = 0.2, seed: int = 0) -> Tensor:
    """A normalised latent [1 16 T 4 5] whose scaling and order its values tell."""
    random = np.random.default_rng(seed)
    scene = Scene(contrast, "none", "independent", (num_latents, 4, 5), 0.9)
    return torch.from_numpy(simulate(scene, WAN, random)).float()


def saved(folder: Path, name: str = "z.safetensors", **tensors: Tensor) -> Path:
    save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, folder / name)
    return folder / name


def labels(path: Path, wanted: str = "Auto") -> list[str]:
    return [reading.label for reading in find_readings(path, WAN, wanted)]


def test_what_is_clear_is_not_asked(tmp_path: Path) -> None:
    z = clip()
    assert labels(saved(tmp_path, latent=z)) == ["Normalised"]
    assert labels(saved(tmp_path, latent=to_raw(z, WAN, "normalised"))) == ["Raw"]
    path = saved(tmp_path, latent=DOUBTFUL)
    assert labels(path, "Raw") == ["Raw"], "the user said it for all files"
    write_latent(DOUBTFUL, path, WAN)
    assert len(labels(path)) == 1, "the file says it"


def test_what_is_open_is_asked(tmp_path: Path) -> None:
    path = saved(tmp_path, latent=DOUBTFUL)
    readings = find_readings(path, WAN, "Auto")
    assert {reading.answer for reading in readings} == {Answer("Raw"), Answer("Normalised")}
    for reading in readings:
        expected = to_raw(DOUBTFUL, WAN, reading.answer.scaling.lower())
        assert torch.equal(reading.frame, expected[:, :, :1]), "the first frame in that scaling"
    noise = torch.randn(1, 16, 16, 40, 4, generator=torch.Generator().manual_seed(0))
    readings = find_readings(saved(tmp_path, latent=noise), WAN, "Normalised")
    assert [reading.answer.order for reading in readings] == ["channels first", "frames first"]
    assert torch.equal(readings[0].frame, to_raw(noise[:, :, :1, 4:36], WAN, "normalised"))
    assert torch.equal(readings[1].frame, to_raw(noise.transpose(1, 2)[:, :, :1, 4:36], WAN, "normalised"))
    assert labels(saved(tmp_path, noise=clip(seed=1), latents=clip())) == ["latents", "noise"]


def test_the_pictures_are_decoded_and_a_click_is_the_runs_scaling(
    jobs: JobService, handlers: EventHandlers, tmp_path: Path
) -> None:
    questions, path = LatentQuestions(jobs), str(saved(tmp_path, "<b>.safetensors", latent=DOUBTFUL))
    before = jobs.runs()
    page = questions.ask([path], "", "Auto", REQUEST)
    pictures = re.findall(r'src="data:image/jpeg;base64,([^"]+)"', page)
    images = [np.asarray(Image.open(io.BytesIO(base64.b64decode(picture)))) for picture in pictures]
    assert [image.shape for image in images] == [(32, 32, 3)] * 2 and not np.array_equal(*images)
    assert page.count("<button") == 2 and "&lt;b&gt;" in page and "<b>.safe" not in page
    assert jobs.runs() == before, "the runs of the pictures are gone"
    for scaling in ("Raw", "Normalised"):
        assert f'data-scaling="{scaling}" data-order="" data-part=""' in page
        run = started(handlers, [path], Answer(scaling))[0]
        assert run["scaling"] == scaling.lower() and "as you chose" in run["note"] and not run["doubt"]
    assert questions.ask([str(tmp_path / "gone.pt")], "", "Auto", REQUEST) == ""


def test_answers_that_the_page_does_not_send(handlers: EventHandlers, tmp_path: Path) -> None:
    path = str(saved(tmp_path, latent=DOUBTFUL))
    answer = {"file": 0, **Answer()._asdict()}
    for text in (
        "{",
        "3",
        "[3]",
        "[{}]",
        *(json.dumps([answer | {name: 7}]) for name in ("scaling", "order", "part")),
    ):
        *_, last = handlers.start([path], True, 1, "Auto", "", text, REQUEST)
        assert "could not be understood: reload the page" in json.loads(last)["error"], text


def started(handlers: EventHandlers, files: list[str], answer: Answer = Answer()) -> list[dict[str, Any]]:  # noqa: B008
    """The states of the runs that the Run button starts for the files, when they have ended."""
    answers = json.dumps([{"file": 0, **answer._asdict()}])
    *_, last = handlers.start(files, True, 1, "Auto", "", answers, REQUEST)
    entries = [handlers.history.get(run_id) for run_id in json.loads(last)["jobs"]]
    wait_for(lambda: all(entry is not None and entry.settled for entry in entries), 30)
    return [state_json(entry) for entry in entries if entry is not None]


def test_a_batch_becomes_several_runs(handlers: EventHandlers, tmp_path: Path) -> None:
    batch = torch.cat([clip(seed=seed) for seed in range(3)])
    path = str(saved(tmp_path, latents=batch, noise=batch + 1))
    runs = started(handlers, [path])
    assert [run["name"] for run in runs] == [f"z latents[{i}].safetensors" for i in range(3)]
    assert [run["note"].rpartition(". ")[2] for run in runs] == [
        f"Clip {i + 1} of 3, latents[{i}]." for i in range(3)
    ]
    assert len({run["job"] for run in runs}) == 3
    assert "The first of 3 clips, each of which becomes a run." in handlers.describe([path], "")
    (run,) = started(handlers, [path], Answer(part="noise[1]"))
    assert run["name"] == "z noise[1].safetensors" and "the file also holds latents[0]" in run["note"]


def test_the_api_names_a_part_and_an_order_and_hears_of_doubt(
    handlers: EventHandlers, tmp_path: Path
) -> None:
    def run(path: Path, *more: str) -> dict[str, Any]:
        options = (*more, *("", "Auto", "Normalised")[len(more) :])
        *_, (state, _, _) = handlers.run(str(path), True, 1, "Auto", "", *options, REQUEST)
        return state

    path = saved(tmp_path, latents=torch.cat([clip(), clip(seed=1)]))
    assert run(path, "latents[1]")["note"].endswith("Clip 2 of 2, latents[1].")
    with pytest.raises(gr.Error, match=r"holds a batch of 2; save one clip per file.*such as latents\[0\]"):
        run(path)
    with pytest.raises(gr.Error, match=r"has no latent other; it has latents\[0\], latents\[1\]\."):
        run(path, "other")
    path = saved(tmp_path, latent=torch.randn(1, 16, 16, 2, 2, generator=torch.Generator().manual_seed(1)))
    assert "frames or channels first" in run(path)["doubt"]
    state = run(path, "", "Frames first")
    assert (
        "frames before channels, [T, C, H, W], as you chose" in state["note"]
        and "first" not in state["doubt"]
    )
    with pytest.raises(gr.Error, match="Unknown order 'x'; choose one of Auto, Channels first, Frames first"):
        run(path, "", "x")
    assert "normalised or raw" in run(saved(tmp_path, latent=DOUBTFUL))["doubt"]


def as_comfyui_loads(path: Path) -> Tensor:
    """As the node LoadLatent of ComfyUI reads a file."""
    latent = load_file(path)
    multiplier = 1.0 if "latent_format_version_0" in latent else 1.0 / 0.18215
    return latent["latent_tensor"].float() * multiplier


@pytest.mark.parametrize("name", LATENT_FORMATS)
def test_a_latent_is_saved_in_every_format(tmp_path: Path, name: str) -> None:
    z, kept, path = to_raw(clip(), WAN, "normalised"), tmp_path / "kept", tmp_path / "z.latent"
    write_latent(z, kept, WAN)
    convert_latent(kept, path, WAN, LATENT_FORMATS[name])
    expected = z if name.lower().endswith("raw") else clip()
    found = as_comfyui_loads(path) if name.startswith("ComfyUI") else load_file(path)["latent"]
    assert torch.allclose(found, expected, atol=1e-5)
    assert torch.allclose(to_raw(read_latent(path, WAN), WAN, LATENT_FORMATS[name].scaling), z, atol=1e-5)
    length = int.from_bytes(path.read_bytes()[:8], "little")
    metadata = json.loads(path.read_bytes()[8 : 8 + length])["__metadata__"]
    assert metadata["scaling"] == LATENT_FORMATS[name].scaling in metadata["description"]
    assert json.loads(metadata["latents_std"]) == list(WAN.latents_std)


def test_the_api_saves_the_latent_as_asked(handlers: EventHandlers, tmp_path: Path) -> None:
    write_mp4(some_video(5), tmp_path / "a.mp4", 12.0)
    arguments = (str(tmp_path / "a.mp4"), True, 1, "Auto", "", "", "Auto")
    found = {}
    for name in ("Normalised", "ComfyUI raw"):
        *_, (_, video, latent) = handlers.run(*arguments, name, REQUEST)
        assert video is not None and latent is not None
        found[name] = Path(latent)
    assert found["ComfyUI raw"].suffix == ".latent"
    normalised = load_file(found["Normalised"])["latent"]
    assert torch.allclose(
        as_comfyui_loads(found["ComfyUI raw"]), to_raw(normalised, WAN, "normalised"), atol=1e-5
    )
    with pytest.raises(
        gr.Error, match="Unknown latent format 'x'; choose one of Normalised, Raw, ComfyUI raw"
    ):
        next(handlers.run(*arguments, "x", REQUEST))
