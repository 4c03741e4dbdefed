"""Train the demo VAE, starting from the linear code of skeleton.py.

    python assets/demo_vae/train.py WORK --minutes 5 --silent 4    # the chain of convolutions alone
    python assets/demo_vae/train.py WORK --minutes 90              # all parameters; run again to go on
    python assets/demo_vae/train.py WORK --minutes 0 --ship        # write the weights beside this file

WORK holds the pool of generated clips, which pool.py fills, and the state, from which every run resumes.

On a shared CPU, start it with torchrun --nproc-per-node and the number of cores: processes wait less than threads
do. They average their gradients once a step.
"""

from __future__ import annotations

import argparse
import copy
import math
import os
import sys
import time
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
import torch.distributed as dist

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent.parent))

import optim  # noqa: E402
import real  # noqa: E402
import ship  # noqa: E402
import skeleton  # noqa: E402
import whole  # noqa: E402
from pool import Pool  # noqa: E402

from wanvae_app.config import WanConfig  # noqa: E402
from wanvae_app.model.vae import WanVAE  # noqa: E402


class Batch(NamedTuple):
    """Shape of a training batch, and the probability that a step has it."""

    num_frames: int
    size: int  # pixels of height and width
    num_clips: int
    probability: float


BATCHES = (
    Batch(9, 96, 2, 0.55),
    Batch(5, 96, 4, 0.15),
    Batch(17, 64, 2, 0.15),
    Batch(1, 128, 8, 0.05),
    Batch(9, 128, 1, 0.10),
)


def parse() -> argparse.Namespace:
    """The command line's arguments."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("work", type=Path)
    parser.add_argument("--minutes", type=float, default=30)
    parser.add_argument(
        "--silent", type=int, default=0, help="finest scales whose residual branches stay silent"
    )
    parser.add_argument("--rate", type=float, default=1.0, help="scales every learning rate")
    parser.add_argument(
        "--end-rate", type=float, default=0.03, help="factor of the learning rates at the end"
    )
    parser.add_argument("--batch", type=int, default=1, help="multiplies the number of clips in a step")
    parser.add_argument("--eval", nargs="*", default=[], help="real clips; CLIP.mp4@60 begins at frame 60")
    parser.add_argument("--every", type=float, default=10, help="minutes between measurements and saves")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--ship", action="store_true", help="write weights, statistics and config at the end")
    return parser.parse_args()


def broadcast_values(*values: float) -> list[float]:
    """Rank 0's values, on every rank."""
    tensor = torch.tensor(values, dtype=torch.float64)
    if dist.is_initialized():
        dist.broadcast(tensor, 0)
    return tensor.tolist()


def broadcast_weights(*models: torch.nn.Module) -> None:
    """Copy rank 0's weights to every rank."""
    for model in models if dist.is_initialized() else ():
        for p in model.state_dict().values():
            dist.broadcast(p, 0)


def average_gradients(vae: torch.nn.Module) -> None:
    """Replace every rank's gradients by their mean over the ranks."""
    if not dist.is_initialized():
        return
    grads = [p.grad for p in vae.parameters() if p.grad is not None]
    flat = torch.cat([g.flatten() for g in grads])
    dist.all_reduce(flat)
    flat /= dist.get_world_size()
    for g, mean in zip(grads, flat.split([g.numel() for g in grads]), strict=True):
        g.copy_(mean.view_as(g))


def main() -> None:
    args = parse()
    rank, world_size = int(os.environ.get("RANK", 0)), int(os.environ.get("WORLD_SIZE", 1))
    device = torch.device(f"cuda:{rank}" if torch.cuda.is_available() else "cpu")
    if world_size > 1:
        dist.init_process_group("cpu:gloo,cuda:nccl" if device.type == "cuda" else "gloo")
    if device.type == "cpu" and world_size > 1:
        torch.set_num_threads(1)
    torch.manual_seed(args.seed)
    rng = np.random.default_rng([args.seed, int(time.time()), rank])
    pool = Pool(args.work)
    print(f"{pool.look()} clips in the pool, on {device}", flush=True)
    vae = WanVAE(WanConfig(base_dim=16, decoder_base_dim=16))
    path = args.work / "state.pt"
    state = torch.load(path, map_location="cpu") if path.exists() else None
    if state is None:
        vae.requires_grad_(False)
        skeleton.build(vae, pool.crops(rng, 48, 9, 128))
        vae.requires_grad_(True)
    else:
        vae.load_state_dict(state["model"])
    vae.to(device)
    average = copy.deepcopy(vae).requires_grad_(False)
    optimizers = optim.make(vae, skeleton.blocks(vae))
    step, begun = 0, time.time()
    if state is not None:
        average.load_state_dict(state["average"])
        step = state["step"]
        for optimizer, saved in zip(optimizers, state["optimizers"], strict=True):
            bases = [group["base"] for group in optimizer.param_groups]
            optimizer.load_state_dict(saved)
            for group, base in zip(optimizer.param_groups, bases, strict=True):
                group["base"] = base
        awake = set(skeleton.blocks(vae, state["silent"])) - set(skeleton.blocks(vae, args.silent))
        if awake:  # training has changed the features that their norms read
            vae.load_state_dict(state["average"])
            vae.requires_grad_(False)
            skeleton.open_norms(vae, list(awake), pool.crops(rng, 4, 9, 96).to(device))
            vae.requires_grad_(True)
            average.load_state_dict(vae.state_dict())
    broadcast_weights(vae, average)
    skipped = set(skeleton.blocks(vae, args.silent))
    clips = {real.label(p): real.read(p).to(device) for p in args.eval}

    def loss_of(x: torch.Tensor) -> torch.Tensor:
        with torch.autocast(device.type, torch.bfloat16):
            z = whole.encode(vae, x, skipped)
            y = whole.decode(vae, z, skipped)
        error = (y.float() - x).square().flatten(1).mean(1)
        return (error + 1e-5).sqrt().mean() + 1e-5 * z.float().square().mean()

    def save() -> None:
        saved = [o.state_dict() for o in optimizers]
        torch.save(
            {"model": vae.state_dict(), "average": average.state_dict(), "optimizers": saved, "step": step,
             "silent": args.silent}, path.with_suffix(".new"))  # fmt: skip
        path.with_suffix(".new").replace(path)

    total, measured, losses, here = args.minutes * 60, 0, [], 0
    while True:
        done, kind = broadcast_values(
            (time.time() - begun) / max(total, 1e-9),
            rng.choice(len(BATCHES), p=[batch.probability for batch in BATCHES]),
        )
        if done >= 1:
            break
        rate = args.rate * (args.end_rate + (1 - args.end_rate) * (0.5 + 0.5 * math.cos(math.pi * done)))
        rate *= min(1.0, (here + 1) / 50)
        for optimizer in optimizers:
            for group in optimizer.param_groups:
                group["lr"] = rate * group["base"]
        batch = BATCHES[int(kind)]
        x = pool.crops(rng, batch.num_clips * args.batch, batch.num_frames, batch.size).to(device)
        loss = loss_of(x.contiguous(memory_format=torch.channels_last_3d))
        loss.backward()
        average_gradients(vae)
        torch.nn.utils.clip_grad_norm_(vae.parameters(), 1.0)
        for optimizer in optimizers:
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
        step, here = step + 1, here + 1
        with torch.no_grad():
            decay = min(0.998, (1 + here) / (10 + here))
            for a, p in zip(average.parameters(), vae.parameters(), strict=True):
                a.lerp_(p, 1 - decay)
        losses.append(loss.item())
        if rank:
            continue
        if here % 25 == 0:
            spent = time.time() - begun
            level = -20 * math.log10(float(np.mean(losses[-25:])) / 2)
            print(
                f"step {step} {level:.2f} dB rate {rate:.3f} {spent / here:.3f} s/step {spent:.0f} s",
                flush=True,
            )
        if time.time() - begun > (measured + 1) * args.every * 60:
            measured += 1
            save()
            pool.look()
            print(f"step {step} real clips {real.measure(average, clips)}", flush=True)
    if rank:
        return
    if args.minutes:
        save()
    print(
        f"step {step} after {(time.time() - begun) / 60:.1f} min: {real.measure(average, clips)}", flush=True
    )
    if args.ship:
        print(ship.write(average.cpu(), pool.crops(rng, 64, 9, 128), HERE))


if __name__ == "__main__":
    main()
