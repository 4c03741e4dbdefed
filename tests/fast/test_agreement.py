"""What ranks of pretended cards agree on, and that ranks which differ refuse to work together."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from support.app_runner import surroundings
from support.grouped import run_group
from support.tiny import tiny_vae

from wanvae_app.cli.ports import free_port
from wanvae_app.device import refuse_mixed_devices, slow_dtype
from wanvae_app.fast import agreement
from wanvae_app.fast.agreement import Ability, Agreement, agree, check_alike, common, summary, why_unequal
from wanvae_app.kernels.code_path import CodePath
from wanvae_app.kernels.kernel_set import KernelSet
from wanvae_app.parallel.process_group import Group

HOPPER, DESCRIPTORS, POINTERS = KernelSet
KERNELS = {
    "T4": ([], "compute capability 7.5, and 8.0 is needed"),
    "3090": (["POINTERS"], "8.6"),
    "H100": (["HOPPER", "DESCRIPTORS", "POINTERS"], "9.0"),
    "H100 without NVRTC": (["DESCRIPTORS", "POINTERS"], "NVRTC is missing"),
    "B200": (["DESCRIPTORS", "POINTERS"], "10.0"),
}


def card(name: str, asked: str = "auto", warning: str = "") -> Ability:
    """What a card can do; "H100 without NVRTC" is an H100."""
    kernels, reason = KERNELS[name]
    best = "fp16" if name == "T4" else "bf16"
    return Ability(name.partition(" ")[0], True, asked, best, kernels, reason, warning)


def cpu(best: str) -> Ability:
    return Ability("CPU", False, "auto", best, [], "no GPU", "")


@pytest.mark.parametrize(
    ("cards", "dtype", "kernels", "reason"),
    [
        (["H100", "H100"], torch.bfloat16, HOPPER, "9.0"),
        (["3090", "3090"], torch.bfloat16, POINTERS, "8.6"),
        (["H100", "H100 without NVRTC"], torch.bfloat16, DESCRIPTORS, "rank 1: NVRTC is missing"),
        (
            ["H100", "B200"],
            torch.bfloat16,
            DESCRIPTORS,
            "cards differ: B200, H100; all take bf16 and fast (Triton)",
        ),
        (
            ["H100", "3090", "B200"],
            torch.bfloat16,
            POINTERS,
            "cards differ: 3090, B200, H100; all take bf16 and fast (Ampere and later)",
        ),
        (
            ["3090", "T4"],
            torch.float16,
            None,
            "cards differ: 3090, T4; all take fp16 and plain PyTorch, because of rank 1: compute capability 7.5, and "
            "8.0 is needed",
        ),
    ],
)
def test_all_take_what_all_can(
    cards: list[str], dtype: torch.dtype, kernels: KernelSet | None, reason: str
) -> None:
    assert common([card(name) for name in cards]) == Agreement(dtype, CodePath(kernels, reason), [])


def test_cpus_of_different_kinds_take_fp32() -> None:
    assert common([cpu("bf16"), cpu("fp32")]).dtype == torch.float32
    assert common([cpu("bf16"), cpu("bf16")]) == (torch.bfloat16, CodePath(None, "no GPU"), [])


def test_a_dtype_asked_for_is_taken_with_a_warning() -> None:
    agreed = common([card("T4", "bf16", "T4 is slow in bf16"), card("3090", "bf16")])
    assert agreed.dtype == torch.bfloat16 and agreed.warnings == ["T4 is slow in bf16"]
    with pytest.raises(ValueError, match="auto and bf16: give all of them the same"):
        common([card("3090"), card("3090", "bf16")])


def test_a_slow_dtype_is_named_with_a_faster_one(monkeypatch: pytest.MonkeyPatch) -> None:
    gpu = torch.device("cuda", 0)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: "T4")
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (7, 5))
    assert slow_dtype(torch.bfloat16, gpu) == "T4 is slow in bf16: --dtype fp16 is faster there"
    assert slow_dtype(torch.float16, gpu) == slow_dtype(torch.float32, gpu) == ""
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (8, 0))
    assert slow_dtype(torch.bfloat16, gpu) == slow_dtype(torch.float16, gpu) == ""
    cpu = torch.device("cpu")
    for flags, expected in (
        ("avx2", "CPU is slow in fp16: --dtype fp32 is faster there"),
        (
            "avx512_bf16",
            "CPU is slow in fp16, by a factor of a hundred and more: --dtype bf16 is faster there",
        ),
        ("avx512_bf16 avx512_fp16", ""),
    ):
        monkeypatch.setattr(Path, "read_text", lambda path, flags=flags: f"flags : fpu {flags} vme")
        assert slow_dtype(torch.float16, cpu) == expected
        assert slow_dtype(torch.float32, cpu) == ""


def pretend_cards(group: Group, cards: list[str]) -> Agreement:
    agreement.find_ability = lambda device, dtype_name: card(cards[group.rank])
    agreed = agree(group, "auto")
    vae = tiny_vae()
    check_alike(group, vae)
    assert summary(group, vae) == "3 ranks on CPU, fp32, plain PyTorch: no other was asked for"
    return agreed


def test_ranks_agree_once_at_the_start() -> None:
    cards = ["H100", "3090", "H100"]
    found = run_group(3, pretend_cards, cards)
    assert found == [common([card(name) for name in cards])] * 3
    assert found[0].path.kernels is POINTERS and found[0].path.reason.startswith("cards differ: 3090, H100")


def differ(group: Group) -> list[str]:
    """What ranks are told that differ in dtype, in path, in shape, and not at all."""
    found = []
    for case in ("dtype", "path", "shape", "nothing"):
        mine = case if group.rank == 1 else "nothing"
        vae = tiny_vae(torch.float64 if mine == "dtype" else torch.float32)
        if mine == "path":
            vae.path = CodePath(POINTERS, "")
        if mine == "shape":
            vae.config = replace(vae.config, num_res_blocks=1)
        found.append(why_unequal(group, vae))
        try:
            check_alike(group, vae)
        except ValueError as error:
            assert found[-1] and found[-1] in str(error)
        else:
            assert not found[-1]
    return found


def test_ranks_that_differ_refuse_to_work_together() -> None:
    expected = [
        "rank 1 has fp64 and plain PyTorch, and rank 0 fp32 and plain PyTorch",
        "rank 1 has fp32 and fast (Ampere and later), and rank 0 fp32 and plain PyTorch",
        "the VAE of rank 1 is of another shape than rank 0's",
        "",
    ]
    assert run_group(2, differ) == [expected, expected]


JOIN = """
import os, time, torch
from wanvae_app.parallel import process_group
if os.environ["RANK"] == "1":  # it has a GPU
    process_group.choose_device = lambda *_: torch.device("cuda", 0)
    process_group.set_up = lambda *_: None
process_group.device_name = lambda device: device.type
try:
    process_group.Group.join("auto")
except ValueError as error:
    print(error, flush=True)
time.sleep(1 - int(os.environ["RANK"]))  # rank 0 serves the store
os._exit(0)
"""


def test_cpus_and_gpus_do_not_mix() -> None:
    refuse_mixed_devices([True, True])
    refuse_mixed_devices([False, False])
    common_part = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free_port()), "WORLD_SIZE": "2"}
    ranks = [
        subprocess.Popen(
            [sys.executable, "-c", JOIN],
            env=surroundings(**common_part, RANK=str(rank), LOCAL_RANK=str(rank), LOCAL_WORLD_SIZE="2"),
            stdout=subprocess.PIPE,
            text=True,
        )
        for rank in range(2)
    ]
    for rank in ranks:
        printed, _ = rank.communicate(timeout=60)
        assert printed.startswith(
            "Rank 0 runs on a CPU, and rank 1 on a GPU: start all ranks on GPUs, or "
        ), printed
