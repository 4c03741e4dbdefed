"""A pool of generated clips on disk, and random crops from it for training.

    nice python assets/demo_vae/pool.py WORK --clips 600 --seed 1

fills the pool in WORK, then replaces clip after clip, until it is stopped or --end clips are made.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
import torch
from scenes import random_clip
from textures import Textures
from torch import Tensor

NUM_FRAMES, SIZE = 17, 160


class Pool:
    """Clips in `folder`/pool.bin, uint8 [num_clips, T, H, W, 3]. Slots that are not filled yet hold zeros."""

    def __init__(self, folder: Path, num_clips: int = 600) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        path, shape = folder / "pool.bin", (num_clips, NUM_FRAMES, SIZE, SIZE, 3)
        if not path.exists():
            np.memmap(path, np.uint8, "w+", shape=shape)
        self.clips = np.memmap(path, np.uint8, "r+", shape=shape)
        self.ready: list[int] = []

    def put(self, slot: int, clip: Tensor) -> None:
        """Store a clip, [3, T, H, W] in [0, 1]."""
        self.clips[slot] = (clip.permute(1, 2, 3, 0) * 255).round().byte().numpy()

    def look(self) -> int:
        """Find the filled slots, and return their number. A filled one is not black all along its middle row."""
        self.ready = [i for i in range(len(self.clips)) if self.clips[i, ::4, SIZE // 2].any()]
        return len(self.ready)

    def crops(self, rng: np.random.Generator, batch: int, num: int, size: int) -> Tensor:
        """Random crops from filled slots, [batch, 3, num, size, size] in [-1, 1].

        Each is mirrored, transposed and reversed in time at random.
        """
        out = []
        for slot in rng.choice(self.ready, batch):
            t, y, x = rng.integers(NUM_FRAMES - num + 1), *rng.integers(SIZE - size + 1, size=2)
            clip = self.clips[slot, t : t + num, y : y + size, x : x + size]
            for axis in range(3):
                clip = np.flip(clip, axis) if rng.random() < 0.5 else clip
            clip = clip.swapaxes(1, 2) if rng.random() < 0.5 else clip
            out.append(torch.from_numpy(np.ascontiguousarray(clip)))
        return torch.stack(out).permute(0, 4, 1, 2, 3).float() / 127.5 - 1


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("work", type=Path)
    parser.add_argument("--clips", type=int, default=600)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--start", type=int, default=0, help="the first slot to fill")
    parser.add_argument("--end", type=int, help="make this many clips, then stop")
    parser.add_argument("--live", type=float, help="liveliness of all scenes, instead of a random one")
    args = parser.parse_args()
    torch.set_num_threads(1)
    rng = np.random.default_rng(args.seed)
    pool, made = Pool(args.work, args.clips), 0
    while args.end is None or made < args.end:
        if made % 40 == 0:
            bank = Textures(48, rng)
        pool.put((args.start + made) % args.clips, random_clip(bank, rng, NUM_FRAMES, SIZE, SIZE, args.live))
        made += 1


if __name__ == "__main__":
    main()
