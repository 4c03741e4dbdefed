"""How ranks get ready for their first job: slow ranks, failures, and what a run says meanwhile."""

from __future__ import annotations

import threading
import time

import pytest
import torch
from support.ranked_jobs import on_ranks, run_to_end, wait_until_ended
from support.tiny import some_latent, tiny_vae

from wanvae_app import codec
from wanvae_app.jobs import follower
from wanvae_app.jobs.service import JobService
from wanvae_app.parallel.process_group import Group


def slow_down_rank_1(group: Group) -> None:
    """Let rank 1 warm up for longer than a rank may be silent within a job."""
    assert group.watchdog is not None
    group.watchdog.silence = 2.0
    if group.rank == 1:
        follower.warm_up = lambda _: time.sleep(6)


def decode_one(jobs: JobService) -> tuple[str, str]:
    jobs.start()
    run = run_to_end(jobs, latent=some_latent(1))
    return run.status, run.message


def test_a_rank_may_warm_up_longer_than_the_others() -> None:
    assert on_ranks(2, decode_one, slow_down_rank_1) == ("finished", "Finished.")


def raise_key_error(*_: object, **__: object) -> None:
    raise KeyError("what a compiler may raise")


def test_a_failure_of_warming_up_is_only_logged(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    vae = tiny_vae()
    monkeypatch.setattr(type(vae), "device", torch.device("cuda"))
    monkeypatch.setattr(torch, "randn", raise_key_error)
    codec.warm_up(vae)
    assert "warming up failed" in caplog.text


def test_a_run_says_that_it_waits_for_the_gpus(monkeypatch: pytest.MonkeyPatch) -> None:
    ready = threading.Event()
    monkeypatch.setattr(follower, "warm_up", lambda *_: ready.wait(30))
    jobs = JobService(Group.join("cpu"), tiny_vae())
    jobs._getting_ready = True  # as on a GPU
    try:
        run = jobs.new_run(latent=some_latent(1))
        jobs.submit(run)
        assert run.status == "queued" and run.queue_place() == 0 and "got ready" in run.message
        ready.set()
        wait_until_ended(run)
        assert (run.status, run.message) == ("finished", "Finished.")
    finally:
        ready.set()
        jobs.close()
