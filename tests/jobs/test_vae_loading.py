"""Several VAEs on real ranks: loaded when first used, unloaded when memory is short, and what fails at that."""

from __future__ import annotations

import gc
import weakref
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
from support.grouped import run_group
from support.ranked_jobs import frames_of, run_to_end, wait_until_ended
from support.tiny import some_latent, some_video, tiny_checkpoint

from wanvae_app.codec import chunk_sizes, decode_chunks
from wanvae_app.formats.checkpoint import load_vae
from wanvae_app.formats.latents import read_latent
from wanvae_app.formats.weights_file import WeightsFile
from wanvae_app.jobs import vae_cache, vae_loading, worker
from wanvae_app.jobs.follower import follow
from wanvae_app.jobs.job import Step
from wanvae_app.jobs.job_state import JobState
from wanvae_app.jobs.rank_task import RankTask
from wanvae_app.jobs.service import JobService
from wanvae_app.jobs.vae_cache import VaeCache, loading_bytes, weight_bytes
from wanvae_app.jobs.vae_loading import make_room, open_vaes
from wanvae_app.parallel.process_group import Group

DTYPE = torch.float64
CPU = torch.device("cpu")
LATENT = some_latent(3, 6, 4)

Prepare = Callable[[Group, VaeCache], None]


class Outcome(NamedTuple):
    """How a run ended, and what was loaded on rank 0 then, the least recently used first."""

    status: str
    message: str
    loaded: list[str]


@pytest.fixture
def sources(tmp_path: Path) -> dict[str, str]:
    """A full VAE, one with narrower levels as lightvae has them, and one with wider ones."""
    widths = {"full": 8, "light": 4, "wide": 12}
    paths = {name: tiny_checkpoint(tmp_path / f"{name}.safetensors", width) for name, width in widths.items()}
    return {name: str(path) for name, path in paths.items()}


def on_two_ranks(
    scene: Callable[[JobService], Any], sources: dict[str, str], prepare: Prepare | None = None
) -> tuple[Any, list[list[str]]]:
    """Return what scene(jobs) returns on rank 0, and by rank what is loaded at the end."""
    found = run_group(2, _run_rank, scene, sources, prepare, timeout=180)
    return found[0][0], [loaded for _, loaded in found]


def _run_rank(
    group: Group, scene: Callable[[JobService], Any], sources: dict[str, str], prepare: Prepare | None
) -> tuple[Any, list[str]]:
    vaes = open_vaes(group, sources, DTYPE)
    if prepare is not None:
        prepare(group, vaes)
    if group.rank > 0:
        follow(group, vaes)
        return None, vaes.idle("")
    jobs = JobService(group, vaes)
    try:
        return scene(jobs), vaes.idle("")
    finally:
        jobs.close()


def outcome(jobs: JobService, vae: str, **options: Any) -> Outcome:
    run = run_to_end(jobs, vae=vae, **{"latent": LATENT, **options})
    return Outcome(run.status, run.message, jobs.vaes.idle(""))


def listen(run: JobState) -> list[str]:
    """Return a list that gets all that the run tells."""
    told: list[str] = []
    change = run.change

    def heard(**values: Any) -> None:
        told.append(f"{values.get('status', run.status)}: {values.get('message', '')}")
        change(**values)

    run.change = heard  # type: ignore[method-assign]
    return told


def decode_by_turns(jobs: JobService) -> list[np.ndarray]:
    assert jobs.vaes.idle("") == ["full"], "only the first one is loaded at the start"
    frames = []
    for vae in ("light", "", "light"):
        run = jobs.new_run(latent=LATENT, vae=vae)
        told = listen(run)
        jobs.submit(run)
        wait_until_ended(run)
        assert run.status == "finished" and run.job.vae == (vae or "full"), run.message
        assert ("queued: Loading light on all ranks." in told) == (not frames), told
        frames.append(frames_of(run))
    return frames


def test_every_run_is_decoded_by_its_vae_on_all_ranks(sources: dict[str, str]) -> None:
    found, loaded = on_two_ranks(decode_by_turns, sources)
    assert loaded == [["full", "light"]] * 2, "both ranks load what is used, and no more"
    for name, frames in zip(("light", "full", "light"), found, strict=True):
        vae = load_vae(sources[name], DTYPE)
        parts = LATENT.split(chunk_sizes(3, 1), 2)
        expected = torch.cat([vae.to_uint8(part) for part in decode_chunks(vae, parts)]).numpy()
        assert np.abs(frames.astype(int) - expected).max() <= 1


def fail_once_on_rank_1(group: Group, vaes: VaeCache) -> None:
    original = vae_cache.load_vae

    def load(file: WeightsFile, *args: Any, **kwargs: Any) -> Any:
        assert group.watchdog is not None
        assert group.watchdog._working and group.watchdog._where == f"loading {file.path.stem}"
        if group.rank == 1 and file.path.stem == "wide":
            vae_cache.load_vae = original
            raise torch.OutOfMemoryError("no memory for weights")
        return original(file, *args, **kwargs)

    vae_cache.load_vae = load
    if group.rank == 1:
        run_step = RankTask.run_step

        def short_of_memory(self: RankTask, step: Step) -> Any:
            if self.job.shape.num_latents == 7 and step.chunk == 1:
                raise MemoryError
            return run_step(self, step)

        RankTask.run_step = short_of_memory  # type: ignore[method-assign]


def fail_to_load(light: str, jobs: JobService) -> list[Outcome]:
    outcomes = [outcome(jobs, "wide"), outcome(jobs, "full"), outcome(jobs, "wide")]
    hidden = Path(light).rename(f"{light}.hidden")
    outcomes += [outcome(jobs, "light"), outcome(jobs, "wide")]
    hidden.rename(light)
    tiny_checkpoint(Path(light), 6)
    outcomes.append(outcome(jobs, "light"))
    tiny_checkpoint(Path(light), 4)
    return [*outcomes, outcome(jobs, "light"), outcome(jobs, "full", latent=some_latent(7))]


def test_a_rank_that_cannot_load_fails_the_run_and_the_app_goes_on(sources: dict[str, str]) -> None:
    found, loaded = on_two_ranks(partial(fail_to_load, sources["light"]), sources, fail_once_on_rank_1)
    memory, after, again, gone, other, changed, back, while_decoding = found
    assert memory.status == gone.status == changed.status == "failed"
    assert memory.message == "Rank 1 could not load wide: OutOfMemoryError: no memory for weights."
    assert memory.loaded == [], "rank 0 had loaded it; without memory the others go as well"
    assert after.loaded == ["full"] and again.loaded == gone.loaded == ["full", "wide"]
    assert gone.message in [
        f"Rank {n} could not load light: light.safetensors is no longer there." for n in (0, 1)
    ]
    assert (
        "could not load light: its file is another one than at the start; restart the app" in changed.message
    )
    for each in (after, again, other, back):
        assert each.status == "finished", each
    assert back.loaded == ["full", "wide", "light"]
    assert while_decoding.message == "Rank 1 failed decoding chunk 2: MemoryError."
    assert loaded == [["full"]] * 2, "so that the next attempt has more memory"


def limit_memory(capacity: Path, group: Group, vaes: VaeCache) -> None:
    """Let rank 1 have as many bytes for weights and clips as the file says, and rank 0 any number.

    A clip takes as many bytes as the weights of "wide".
    """

    def free(device: torch.device) -> int | None:
        if group.rank == 0:
            return None
        return int(capacity.read_text()) - sum(weight_bytes(vaes[name]) for name in vaes.idle(""))

    def refusal(clip: Any, phases: Any, size: int, rank: int, free: int | None, **options: Any) -> str:
        return "it is too large" if free is not None and free < weight_bytes(vaes["wide"]) else ""

    vae_loading.free_bytes = free  # type: ignore[assignment]
    worker.free_bytes = free  # type: ignore[assignment]
    worker.refusal = refusal  # type: ignore[assignment]


def run_short_of_memory(capacity: Path, jobs: JobService) -> list[Outcome]:
    weights = {name: weight_bytes(jobs.vaes[name]) for name in jobs.vaes.names}
    assert weights == {name: loading_bytes(jobs.vaes[name]) for name in jobs.vaes.names}
    clip = weights["wide"]
    capacity.write_text(str(weights["full"] + weights["wide"] + clip))
    outcomes = [outcome(jobs, vae) for vae in ("light", "wide")]
    capacity.write_text(str(weights["full"] + clip))
    outcomes.append(outcome(jobs, "full"))
    capacity.write_text("1000")
    return [*outcomes, outcome(jobs, "light")]


def test_those_used_least_recently_make_room_on_all_ranks(sources: dict[str, str], tmp_path: Path) -> None:
    capacity = tmp_path / "capacity"
    prepare = partial(limit_memory, capacity)
    found, loaded = on_two_ranks(partial(run_short_of_memory, capacity), sources, prepare)
    light, wide, full, hopeless = found
    assert (light.status, light.loaded) == ("finished", ["full", "light"])
    assert (wide.status, wide.loaded) == ("finished", ["light", "wide"]), wide
    assert (full.status, full.loaded) == ("finished", ["full"])
    assert hopeless.status == "failed"
    assert hopeless.message == "Rank 1 could not load light: it needs 0.0 GiB and 0.0 GiB are free."
    assert hopeless.loaded == full.loaded, "nothing was unloaded in vain"
    assert loaded[0] == loaded[1]


def test_no_more_are_unloaded_than_help(sources: dict[str, str]) -> None:
    vaes, group = VaeCache.open(sources, DTYPE, CPU), Group(0, 1, CPU)
    for name in vaes.names:
        vaes.load(name)
    vaes.use("full")
    assert vaes.idle("full") == ["light", "wide"]
    make_room(group, vaes, "full", lambda more: False)
    make_room(group, vaes, "full", lambda more: True)  # nothing would help
    assert vaes.idle("") == ["light", "wide", "full"]
    light = weight_bytes(vaes["light"])
    make_room(group, vaes, "full", lambda more: more < light)
    assert vaes.idle("") == ["wide", "full"]
    make_room(group, vaes, "wide", lambda more: more < 1)
    assert vaes.idle("") == ["wide"]


def open_on(group: Group, sources: dict[str, str], lost: str) -> tuple[str, list[str]]:
    """The refusal of other VAEs on rank 1, and what is left after a restart when rank 1 has lost one."""
    other = {**sources, "light": sources["wide"]} if group.rank == 1 else sources
    with pytest.raises(ValueError, match="different VAEs") as refusal:
        open_vaes(group, other, DTYPE)
    group.restarts = 1
    if group.rank == 1:
        sources = {**sources, lost: "/nowhere"}
    return str(refusal.value), open_vaes(group, sources, DTYPE).names


def test_the_ranks_have_the_same_vaes(sources: dict[str, str]) -> None:
    for refusal, names in run_group(2, open_on, sources, "light"):
        assert refusal.count(". ") == 0 and names == ["full", "wide"]


def test_an_unloaded_vae_leaves_no_weights(sources: dict[str, str]) -> None:
    vaes = VaeCache.open(sources, DTYPE, CPU)
    vae = vaes.load("light")
    list(decode_chunks(vae, [LATENT]))
    weights = weakref.ref(vae.quant_conv.weight)
    del vae
    assert vaes["light"].device == CPU
    gc.disable()
    try:
        vaes.unload("light")
        assert weights() is None
    finally:
        gc.enable()
    described = vaes["light"]
    assert described.device.type == "meta" and described.config.base_dim == 4 and described.dtype == DTYPE
    assert described.name == "light (Wan 2.1 VAE, width 4)"


def test_families_have_latents_of_their_own(tmp_path: Path) -> None:
    sources = {"2.1": str(tiny_checkpoint(tmp_path / "a.safetensors"))}
    sources["2.2"] = str(tiny_checkpoint(tmp_path / "b.safetensors", 4, "wan2.2"))
    vaes = VaeCache.open(sources, DTYPE, CPU)
    vaes.load("2.1")
    jobs = JobService(Group(0, 1, CPU), vaes, tmp_path / "runs")
    try:
        with pytest.raises(ValueError, match=r"\[1, 48, T, H, W\]"):
            jobs.new_run(latent=LATENT, vae="2.2")
        with pytest.raises(ValueError, match="There is no VAE '3.0' here; choose one of 2.1, 2.2"):
            jobs.new_run(latent=LATENT, vae="3.0")
        for vae, channels in (("2.2", 48), ("2.1", 16)):
            run = run_to_end(jobs, source=some_video(5, 32, 32), vae=vae)
            assert run.status == "finished" and run.latent_path is not None, run.message
            config = replace(vaes[vae].config, z_dim=channels)
            assert read_latent(run.latent_path, config).shape[1] == channels
    finally:
        jobs.close()
