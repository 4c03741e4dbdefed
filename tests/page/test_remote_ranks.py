"""The remote VAE on two ranks of a running app: frames while it decodes, failures of a rank, and ComfyUI's nodes."""

from __future__ import annotations

import importlib.util
import sys
import time
import types
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import requests
import torch
from diffusers.utils.remote_utils import remote_decode
from safetensors.torch import load_file
from support.app_runner import ROOT, wait_for
from support.browser import Rigged

import wanvae_app
from wanvae_app import LoadedVae, remote

SAMPLE = ROOT / "assets" / "samples" / "Rolling marbles.safetensors"
PACK = ROOT / "assets" / "comfyui"
NODES = ("VAE Decode (Wan, remote)", "VAE Encode (Wan, remote)")


@pytest.fixture(scope="module")
def latent() -> torch.Tensor:
    """The normalised latent of five frames, 64x64."""
    return load_file(SAMPLE)["latent"][:, :, :2, :8, :8].float().contiguous()


@pytest.fixture(scope="module")
def vae() -> LoadedVae:
    return wanvae_app.load_vae(device="cpu")


@pytest.fixture(scope="module")
def nodes() -> dict[str, type]:
    """The node pack's classes by their titles, imported as ComfyUI imports a folder of custom_nodes."""
    spec = importlib.util.spec_from_file_location(
        "custom_nodes_wan", PACK / "__init__.py", submodule_search_locations=[str(PACK)]
    )
    assert spec is not None and spec.loader is not None
    pack = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = pack
    spec.loader.exec_module(pack)
    titles = pack.NODE_DISPLAY_NAME_MAPPINGS
    return {titles[name]: node for name, node in pack.NODE_CLASS_MAPPINGS.items()}


def frames_of(url: str, z: torch.Tensor, scaling: str = "normalised") -> np.ndarray:
    return np.concatenate(list(remote.decode(url, z, scaling=scaling)))


def test_two_ranks_give_what_one_gives_here(rigged: Rigged, latent: torch.Tensor, vae: LoadedVae) -> None:
    frames = frames_of(rigged.url, latent)
    local = vae.decode(latent, scaling="normalised").numpy()
    assert np.abs(frames.astype(int) - local).max() <= 2 and (frames != local).mean() < 0.05
    options = {"output_type": "pt", "return_type": "pt", "partial_postprocess": True}
    tensor = remote_decode(f"{rigged.url}/vae/decode", latent, **options)
    assert np.array_equal(tensor.numpy(), frames)


def test_frames_come_while_others_are_decoded(rigged: Rigged, latent: torch.Tensor) -> None:
    rigged.hold(2)
    told: list[tuple[int, int]] = []
    frames = remote.decode(
        rigged.url, latent, scaling="normalised", on_progress=lambda done, total: told.append((done, total))
    )
    assert next(frames).shape == (1, 64, 64, 3) and told == [(1, 5)]
    rigged.wait_held(2)
    rigged.release(2)
    assert len(list(frames)) == 4 and told[-1] == (5, 5)


def test_closing_the_generator_stops_the_ranks(rigged: Rigged, latent: torch.Tensor) -> None:
    rigged.hold(2)
    longer = torch.cat([latent, latent], 2)
    frames = remote.decode(rigged.url, longer, scaling="normalised")
    next(frames)
    rigged.wait_held(2)
    frames.close()
    time.sleep(0.5)  # until the server has noticed
    rigged.release(2)
    rigged.wait_idle()
    wait_for(
        lambda: "Stopped after 5 of 13 frames: the program that asked for it has left" in rigged.app.log(), 5
    )


@pytest.mark.parametrize("rank", [0, 1])
def test_a_failure_of_a_rank_is_json(rigged: Rigged, latent: torch.Tensor, rank: int) -> None:
    (rigged.rig / f"raise-{rank}-1").write_text("out of luck")
    query = {"shape": list(latent.shape), "dtype": "float32", "output_type": "pt"}
    answer = requests.post(f"{rigged.url}/vae/decode", latent.numpy().tobytes(), params=query)
    assert answer.status_code == 500
    assert f"Rank {rank} failed decoding chunk 1: RuntimeError: out of luck" in answer.json()["detail"]
    (rigged.rig / f"raise-{rank}-2").write_text("out of luck")
    stream = remote.decode(rigged.url, latent, scaling="normalised")
    assert next(stream).shape == (1, 64, 64, 3)
    with pytest.raises(remote.RemoteError, match=f"Rank {rank} failed decoding chunk 2"):
        list(stream)
    (rigged.rig / f"raise-{rank}-1").write_text("out of luck")
    with pytest.raises(remote.RemoteError, match=f"Rank {rank} failed encoding chunk 1"):
        remote.encode(rigged.url, np.zeros((5, 64, 64, 3), np.uint8), scaling="raw")


def test_what_does_not_fit_into_memory_is_refused(rigged: Rigged, latent: torch.Tensor) -> None:
    (rigged.rig / "free-1-0").write_text("1000")
    with pytest.raises(remote.RemoteError, match="Rank 1 would need .* GiB for this and has 0.0 GiB free"):
        next(remote.decode(rigged.url, latent, scaling="normalised"))


def test_the_client_encodes_what_it_decodes(rigged: Rigged, latent: torch.Tensor, vae: LoadedVae) -> None:
    frames = frames_of(rigged.url, latent)
    z = remote.encode(rigged.url, frames, scaling="normalised")
    local = vae.encode(frames, scaling="normalised")
    assert z.shape == latent.shape and (z - local).abs().max() < 0.1
    assert np.abs(frames_of(rigged.url, z).astype(int) - frames).mean() < 12


# ComfyUI


def test_nodes_give_images_and_latents_as_comfyui_has_them(
    rigged: Rigged, nodes: dict[str, type], latent: torch.Tensor
) -> None:
    decode, encode = (nodes[title]() for title in NODES)
    frames = frames_of(rigged.url, latent)
    (images,) = decode.decode({"samples": latent}, url=rigged.url, scaling="normalised")
    assert images.dtype == torch.float32 and images.shape == (5, 64, 64, 3)
    assert np.array_equal(images.mul(255).round().numpy(), frames)
    (encoded,) = encode.encode(images, url=rigged.url)
    raw = remote.encode(rigged.url, frames, scaling="raw")
    assert torch.equal(encoded["samples"], raw), "raw, as ComfyUI's own latents are"
    (again,) = decode.decode(encoded, url=rigged.url)
    assert np.array_equal(again.mul(255).round().numpy(), frames_of(rigged.url, raw, "raw"))
    batch = torch.cat([latent, latent.flip(-1)])
    (images,) = decode.decode({"samples": batch}, url=rigged.url, scaling="normalised")
    assert images.shape == (10, 64, 64, 3) and np.array_equal(images[:5].mul(255).round().numpy(), frames)


def test_nodes_fill_comfyuis_bar_and_heed_its_interrupt(
    rigged: Rigged, nodes: dict[str, type], latent: torch.Tensor, monkeypatch: pytest.MonkeyPatch
) -> None:
    shown: list[tuple[int, int]] = []
    interrupted, num_shown = False, 2

    class ProgressBar:
        def __init__(self, total: int) -> None:
            self.total = total

        def update_absolute(self, value: int) -> None:
            shown.append((value, self.total))

    class Interrupted(BaseException):
        pass

    def throw() -> None:
        if interrupted and len(shown) > num_shown:
            raise Interrupted

    modules: dict[str, Any] = {
        "comfy": types.ModuleType("comfy"),
        "comfy.utils": types.SimpleNamespace(ProgressBar=ProgressBar),
        "comfy.model_management": types.SimpleNamespace(throw_exception_if_processing_interrupted=throw),
    }
    for name, module in modules.items():
        monkeypatch.setitem(sys.modules, name, module)
    decode = nodes[NODES[0]]()
    batch = {"samples": torch.cat([latent, latent])}
    decode.decode(batch, url=rigged.url, scaling="normalised")
    assert shown == [(done, 10) for done in range(1, 11)]
    shown.clear()
    interrupted = True
    with pytest.raises(Interrupted):
        decode.decode(batch, url=rigged.url, scaling="normalised")
    rigged.wait_idle()
    shown.clear()
    num_shown = -1
    rigged.hold(1)
    for node, clip in ((decode, batch), (nodes[NODES[1]](), torch.zeros(1, 64, 64, 3))):
        with pytest.raises(Interrupted):  # while the server has not begun to answer
            getattr(node, node.FUNCTION)(clip, url=rigged.url)


def test_nodes_say_what_comfyui_asks_of_them(nodes: dict[str, type]) -> None:
    for title in NODES:
        node = nodes[title]
        inputs = node.INPUT_TYPES()
        assert callable(getattr(node, node.FUNCTION)) and node.RETURN_TYPES and node.CATEGORY
        assert inputs["required"]["url"][1]["default"] == "http://127.0.0.1:7860"
    assert nodes[NODES[0]].RETURN_TYPES == ("IMAGE",) and nodes[NODES[1]].RETURN_TYPES == ("LATENT",)


def test_the_pack_stands_alone() -> None:
    """It is copied to machines that have ComfyUI and not this package."""
    assert (PACK / "client.py").read_bytes() == Path(remote.__file__).read_bytes()
    for path in PACK.glob("*.py"):
        assert "import wanvae_app" not in path.read_text() and "from wanvae_app" not in path.read_text(), path
