"""A job's steps, and its way to the other ranks as JSON."""

from __future__ import annotations

import json

import pytest

from wanvae_app.jobs.job import Job, JobKind, Phase
from wanvae_app.jobs.latent_shape import LatentShape

SHAPE = LatentShape(num_channels=16, num_latents=4, height=6, width=5)


def make_job(kind: JobKind) -> Job:
    return Job("id", kind, SHAPE, chunk=2, parallel=True)


def test_the_first_latent_frame_is_a_chunk_of_its_own() -> None:
    steps = make_job(JobKind.DECODE).steps()
    assert [(step.chunk, step.start, step.stop) for step in steps] == [(0, 0, 1), (1, 1, 3), (2, 3, 4)]
    assert {step.phase for step in steps} == {Phase.DECODE}
    assert steps[2].description == "decoding chunk 3"


def test_a_roundtrip_decodes_after_encoding_or_interleaved_with_it() -> None:
    job = make_job(JobKind.ROUNDTRIP)
    order = [step.description.removesuffix(f" {step.chunk + 1}") for step in job.steps()]
    assert order == ["encoding chunk"] * 3 + ["decoding chunk"] * 3
    interleaved = [step.description for step in job.steps(interleaved=True)]
    assert interleaved == [
        f"{word} chunk {number}" for number in (1, 2, 3) for word in ("encoding", "decoding")
    ]


@pytest.mark.parametrize("kind", JobKind)
def test_a_job_travels_as_json(kind: JobKind) -> None:
    job = make_job(kind)
    values = json.loads(json.dumps(job.to_json()))
    assert values["kind"] in ("decode", "encode", "roundtrip") and values["shape"] == [16, 4, 6, 5]
    found = Job.from_json(values)
    assert found == job and found.kind is kind and isinstance(found.shape, LatentShape)
