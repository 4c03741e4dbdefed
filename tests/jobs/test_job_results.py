"""Jobs on real ranks give what one rank gives, and end early when they are stopped."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from support.ranked_jobs import frames_of, on_ranks, run_to_end, wait_until_ended
from support.tiny import some_latent, some_video, tiny_vae

from wanvae_app.codec import decode_chunks, encode_chunks
from wanvae_app.jobs import worker
from wanvae_app.jobs.service import JobService
from wanvae_app.model.pixels import from_uint8, to_uint8
from wanvae_app.model.vae import WanVAE


def decoded(vae: WanVAE, latent: torch.Tensor) -> np.ndarray:
    """The frames of a latent, uint8 [T H W 3], decoded in one chunk on one rank."""
    return torch.cat([to_uint8(frames) for frames in decode_chunks(vae, [latent])]).numpy()


def decode_in_several_ways(jobs: JobService) -> list[np.ndarray]:
    results = []
    for chunk, parallel in ((1, True), (3, True), (99, True), (2, False)):
        run = run_to_end(jobs, latent=some_latent(4), chunk=chunk, parallel=parallel, name="a")
        assert run.status == "finished", run.message
        num_ranks = min(4, jobs.group.size) if parallel else 1
        assert run.num_ranks == num_ranks and len(run.frames) == run.num_frames == 13
        assert run.frames.finished and run.done == {"decode": 4}
        num_chunks = 1 + -(-3 // run.job.chunk)  # the first latent frame is a chunk of its own
        assert [(a.rank, a.chunk) for a in run.activity] == [
            (rank, i) for i in range(num_chunks) for rank in range(num_ranks)
        ]
        assert all(a.compute_seconds > 0 and a.wait_seconds >= 0 for a in run.activity)
        assert run.started <= run.first_frame <= run.finished
        assert len(run.peak_bytes) == jobs.group.size and all(run.peak_bytes[:num_ranks])
        results.append(frames_of(run))
    return results


@pytest.mark.parametrize("size", [1, 2, 5])
def test_decoding_equals_one_rank(size: int) -> None:
    expected = decoded(tiny_vae(torch.float64), some_latent(4))
    for frames in on_ranks(size, decode_in_several_ways):
        assert np.array_equal(frames, expected)


def roundtrips(jobs: JobService) -> list[tuple[np.ndarray, torch.Tensor]]:
    """Frames and latent of two roundtrips; rank 0 has no memory to interleave the second one."""
    found = []
    for interleaves in (True, False):
        if not interleaves:
            worker.refusal = lambda *what, interleaved, **_: "no room" if interleaved else ""
        run = run_to_end(jobs, source=some_video(13), chunk=2)
        assert run.status == "finished", run.message
        assert run.encode_seconds > 0 and run.decode_seconds > 0
        steps = [(a.phase, a.chunk) for a in run.activity if a.rank == 0]
        encoded, decoded = ([(phase, chunk) for chunk in range(3)] for phase in ("encode", "decode"))
        interleaved = [step for pair in zip(encoded, decoded, strict=True) for step in pair]
        assert steps == (interleaved if interleaves else encoded + decoded)
        found.append((frames_of(run), run.latent))
    return found


def test_a_roundtrip_equals_one_rank() -> None:
    vae = tiny_vae(torch.float64)
    video = from_uint8(torch.from_numpy(some_video(13).read(0, 13)), torch.float64)
    expected = torch.cat(list(encode_chunks(vae, [video])), 2)
    for frames, latent in on_ranks(2, roundtrips):
        assert latent.dtype == torch.float64 and (latent - expected).norm() <= 1e-12 * expected.norm()
        assert np.array_equal(frames, decoded(vae, expected))


def stop_two_and_finish_one(jobs: JobService) -> list[tuple[str, int]]:
    """Status and number of frames of a decode and a roundtrip that are stopped, and of a decode that is not."""
    outcomes = []
    for source in (None, some_video(49)):
        latent = some_latent(13) if source is None else None
        run = jobs.new_run(latent=latent, source=source, chunk=1)
        jobs.submit(run)
        while run.done[run.job.phases[0]] < 2:
            run.wait(1)
        run.stop()
        wait_until_ended(run)
        assert run.done[run.job.phases[0]] < 13, "it went on to the end"
        outcomes.append((run.status, len(run.frames)))
    run = run_to_end(jobs, latent=some_latent(2))
    outcomes.append((run.status, len(run.frames)))
    return outcomes


def test_stop_ends_a_run_on_all_ranks_and_the_next_run_works() -> None:
    decode, roundtrip, after = on_ranks(2, stop_two_and_finish_one)
    assert decode[0] == roundtrip[0] == "stopped"
    assert 0 < decode[1] < 49 and 0 < roundtrip[1] < 49
    assert after == ("finished", 5)
