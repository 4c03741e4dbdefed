"""Of a Hugging Face repository its VAE alone is fetched, whatever it is called there."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest

from wanvae_app.cli.vae_sources import named, parse_vae
from wanvae_app.formats.hub_repository import HubFile, HubSource, choose_vae, parse_hub_source
from wanvae_app.formats.weights_file import find_weights_file

MB, GB = 10**6, 10**9
# Lists of files as these repositories have them, shortened; sizes are about right.
REPOSITORIES: dict[str, dict[str, int]] = {
    "Wan-AI/Wan2.1-T2V-1.3B": {
        "README.md": 9000,
        "config.json": 250,
        "Wan2.1_VAE.pth": 508 * MB,
        "diffusion_pytorch_model.safetensors": 5676 * MB,
        "models_t5_umt5-xxl-enc-bf16.pth": 11 * GB,
        "google/umt5-xxl/spiece.model": 4 * MB,
    },
    "Wan-AI/Wan2.1-T2V-1.3B-Diffusers": {
        "model_index.json": 400,
        "text_encoder/model-00001-of-00005.safetensors": 5 * GB,
        "transformer/diffusion_pytorch_model-00001-of-00002.safetensors": 5 * GB,
        "transformer/config.json": 500,
        "vae/config.json": 700,
        "vae/diffusion_pytorch_model.safetensors": 508 * MB,
    },
    "Wan-AI/Wan2.2-TI2V-5B": {
        "Wan2.2_VAE.pth": 2818 * MB,
        "diffusion_pytorch_model-00001-of-00003.safetensors": 10 * GB,
        "models_t5_umt5-xxl-enc-bf16.pth": 11 * GB,
    },
    "Kijai/WanVideo_comfy": {
        "Wan2_1-T2V-1_3B_fp8_e4m3fn.safetensors": 1500 * MB,
        "Wan2_1-VACE_module_1_3B_bf16.safetensors": 1500 * MB,
        "Wan2_1_VAE_bf16.safetensors": 254 * MB,
        "Wan2_1_VAE_fp32.safetensors": 508 * MB,
        "Wan2_2_VAE_bf16.safetensors": 1409 * MB,
        "taew2_1.safetensors": 23 * MB,
        "umt5-xxl-enc-bf16.safetensors": 11 * GB,
        "Lightx2v/lightx2v_T2V_14B_lora_rank64_bf16.safetensors": 700 * MB,
    },
    "spacepxl/Wan2.1-VAE-upscale2x": {
        "README.md": 4000,
        "Wan2.1_VAE_upscale2x_imageonly_real_v1.safetensors": 254 * MB,
        "diffusers/Wan2.1_VAE_upscale2x_imageonly_real_v1/config.json": 800,
        "diffusers/Wan2.1_VAE_upscale2x_imageonly_real_v1/diffusion_pytorch_model.safetensors": 508 * MB,
    },
    "Comfy-Org/Wan_2.1_ComfyUI_repackaged": {
        "split_files/clip_vision/clip_vision_h.safetensors": 1264 * MB,
        "split_files/diffusion_models/wan2.1_t2v_1.3B_bf16.safetensors": 2800 * MB,
        "split_files/diffusion_models/wan2.1_vace_1.3B_fp16.safetensors": 4 * GB,
        "split_files/text_encoders/umt5_xxl_fp16.safetensors": 11 * GB,
        "split_files/vae/wan_2.1_vae.safetensors": 254 * MB,
    },
    "Comfy-Org/Qwen-Image_ComfyUI": {
        "split_files/diffusion_models/qwen_image_bf16.safetensors": 40 * GB,
        "split_files/vae/qwen_image_vae.safetensors": 254 * MB,
    },
    "somebody/tidy": {
        "vae/diffusion_pytorch_model.fp16.safetensors": 254 * MB,
        "vae/diffusion_pytorch_model.safetensors": 508 * MB,
        "vae/config.json": 700,
        "audio_vae/model_audio_vae.safetensors": 100 * MB,
        "transformer_with_vae.safetensors": 30 * GB,
    },
    "somebody/pieces": {
        "vae/config.json": 700,
        "vae/diffusion_pytorch_model.safetensors.index.json": 30_000,
        "vae/diffusion_pytorch_model-00001-of-00002.safetensors": 900 * MB,
        "vae/diffusion_pytorch_model-00002-of-00002.safetensors": 100 * MB,
        "vae/diffusion_pytorch_model.fp16-00001-of-00001.safetensors": 500 * MB,
    },
    "somebody/quantised": {"wan_vae.gguf": 200 * MB, "wan_model_q4.gguf": 2 * GB},
    "somebody/My-VAE": {"model.safetensors": 254 * MB, "model.pth": 254 * MB},
    "somebody/chat": {"model.safetensors": 2 * GB},
}  # fmt: skip
CHOSEN = {
    "Wan-AI/Wan2.1-T2V-1.3B": "Wan2.1_VAE.pth",
    "Wan-AI/Wan2.1-T2V-1.3B-Diffusers": "vae/diffusion_pytorch_model.safetensors",
    "Wan-AI/Wan2.2-TI2V-5B": "Wan2.2_VAE.pth",
    "Kijai/WanVideo_comfy:Wan2_1_VAE_bf16.safetensors": "Wan2_1_VAE_bf16.safetensors",
    "Kijai/WanVideo_comfy:wan2_2_vae_BF16.safetensors": "Wan2_2_VAE_bf16.safetensors",
    "spacepxl/Wan2.1-VAE-upscale2x": "Wan2.1_VAE_upscale2x_imageonly_real_v1.safetensors",
    "spacepxl/Wan2.1-VAE-upscale2x:diffusers": (
        "diffusers/Wan2.1_VAE_upscale2x_imageonly_real_v1/diffusion_pytorch_model.safetensors"
    ),
    "Comfy-Org/Wan_2.1_ComfyUI_repackaged": "split_files/vae/wan_2.1_vae.safetensors",
    "Comfy-Org/Wan_2.1_ComfyUI_repackaged:wan_2.1_vae.safetensors": "split_files/vae/wan_2.1_vae.safetensors",
    "Comfy-Org/Wan_2.1_ComfyUI_repackaged:split_files/vae/": "split_files/vae/wan_2.1_vae.safetensors",
    "Comfy-Org/Qwen-Image_ComfyUI": "split_files/vae/qwen_image_vae.safetensors",
    "somebody/tidy": "vae/diffusion_pytorch_model.safetensors",
    "somebody/pieces": "vae/diffusion_pytorch_model-00001-of-00002.safetensors",
    "somebody/quantised": "wan_vae.gguf",
    "somebody/My-VAE": "model.safetensors",
    "somebody/My-VAE:model.pth:ema": "model.pth",
}


def hub_source(text: str) -> HubSource:
    found = parse_hub_source(text)
    assert found is not None
    return found


def files_of(repository: str) -> list[HubFile]:
    return [HubFile(path, size) for path, size in REPOSITORIES[repository].items()]


@pytest.mark.parametrize("text", CHOSEN)
def test_the_vae_is_chosen_by_its_name(text: str) -> None:
    source = hub_source(text)
    assert choose_vae(source, files_of(source.repository)) == CHOSEN[text]


def test_several_are_named_with_how_to_choose() -> None:
    with pytest.raises(ValueError, match="holds 3 files that may be the VAE") as refusal:
        choose_vae(hub_source("Kijai/WanVideo_comfy"), files_of("Kijai/WanVideo_comfy"))
    assert str(refusal.value).endswith(
        "(Wan2_1_VAE_bf16.safetensors, Wan2_1_VAE_fp32.safetensors, Wan2_2_VAE_bf16.safetensors); choose one, as in "
        "Kijai/WanVideo_comfy:Wan2_1_VAE_bf16.safetensors."
    )
    with pytest.raises(
        ValueError, match=r"somebody/chat holds no file \(.safetensors, .*\) with VAE in its name"
    ):
        choose_vae(hub_source("somebody/chat"), files_of("somebody/chat"))
    with pytest.raises(ValueError, match="holds no weights called nothing.pth"):
        choose_vae(hub_source("somebody/chat:nothing.pth"), files_of("somebody/chat"))


def test_what_is_no_repository() -> None:
    for text in ("models/vae.pth", "vae.safetensors", "/models/vae", "a/b/c", "models/vae.pth:x", "C:/vae"):
        assert parse_hub_source(text) is None, text


def test_a_part_of_a_file_can_be_named() -> None:
    assert parse_hub_source("a/b:x/vae.PTH:state.ema") == HubSource("a/b", "x/vae.PTH", "state.ema")
    assert parse_hub_source("a/b:x/vae.pth") == HubSource("a/b", "x/vae.pth", "")


def test_names_on_the_page() -> None:
    texts = (
        "Kijai/WanVideo_comfy:Wan2_1_VAE_bf16.safetensors",
        "Wan-AI/Wan2.2-TI2V-5B",
        "a/b:split/vae/wan.safetensors",
    )
    assert [vae.name for vae in named([parse_vae(text) for text in texts])] == [
        "Wan2_1_VAE_bf16", "Wan2.2-TI2V-5B", "wan",
    ]  # fmt: skip


class Hub:
    """Stands for Hugging Face: lists REPOSITORIES, and writes down what is fetched."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.fetched: list[str] = []
        self.is_reachable = True

    def list_repo_tree(self, repository: str, *, recursive: bool) -> Iterator[SimpleNamespace]:
        if not self.is_reachable:
            raise ConnectionError("no network")
        assert recursive
        for file in files_of(repository):
            yield SimpleNamespace(path=file.path, size=file.num_bytes)

    def download(self, repository: str, path: str) -> str:
        self.fetched.append(path)
        folder = self.folder / f"models--{repository.replace('/', '--')}"
        (folder / "refs").mkdir(parents=True, exist_ok=True)
        (folder / "refs" / "main").write_text("0a1b")
        file = folder / "snapshots" / "0a1b" / path
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text("weights")
        return str(file)


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Hub:
    hub = Hub(tmp_path)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("huggingface_hub.HfApi", lambda: hub)
    monkeypatch.setattr("huggingface_hub.hf_hub_download", hub.download)
    monkeypatch.setattr("huggingface_hub.hf_api.RepoFile", SimpleNamespace)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    return hub


def test_the_vae_alone_is_fetched(hub: Hub) -> None:
    assert find_weights_file("Wan-AI/Wan2.1-T2V-1.3B").path.name == "Wan2.1_VAE.pth"
    assert hub.fetched == ["Wan2.1_VAE.pth"]
    hub.fetched.clear()
    file = find_weights_file("Wan-AI/Wan2.1-T2V-1.3B-Diffusers").path
    assert hub.fetched == ["vae/config.json", "vae/diffusion_pytorch_model.safetensors"]
    assert file.with_name("config.json").is_file(), "the latents' mean and std"


def test_all_pieces_are_fetched(hub: Hub) -> None:
    file = find_weights_file("somebody/pieces")
    pieces = [f"diffusion_pytorch_model-0000{number}-of-00002.safetensors" for number in (1, 2)]
    assert hub.fetched == ["vae/config.json", *(f"vae/{piece}" for piece in pieces)]
    assert file.path.name == pieces[0] and file.path.with_name(pieces[1]).is_file()


def test_what_was_fetched_is_found_without_a_network(hub: Hub) -> None:
    fetched = find_weights_file("Wan-AI/Wan2.1-T2V-1.3B")
    hub.is_reachable = False
    assert find_weights_file("Wan-AI/Wan2.1-T2V-1.3B") == fetched
    for source in ("Wan-AI/Wan2.2-TI2V-5B", "Wan-AI/Wan2.1-T2V-1.3B:other.pth"):
        with pytest.raises(
            ValueError, match=r"could not be had from Hugging Face \(ConnectionError\); download"
        ):
            find_weights_file(source)
