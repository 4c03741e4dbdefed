"""The page and /health say on which devices and by which code is coded, and why."""

from __future__ import annotations

import html
import json
from pathlib import Path

import torch
from starlette.applications import Starlette
from starlette.testclient import TestClient
from support.tiny import tiny_vae

from wanvae_app.jobs.service import JobService
from wanvae_app.kernels.code_path import CodePath
from wanvae_app.kernels.kernel_set import KernelSet
from wanvae_app.page.gallery import header_html
from wanvae_app.page.history import History
from wanvae_app.page.routes import make_routes
from wanvae_app.parallel.process_group import Group


def test_the_path_is_told_with_its_reason(tmp_path: Path) -> None:
    group = Group(0, 3, torch.device("cpu"))
    group.device_names = ["A100", "H100", "A100"]
    vae = tiny_vae()
    vae.path = CodePath(KernelSet.POINTERS, 'cards differ: A100, H100; all take "bf16"')
    jobs = JobService(group, vae, tmp_path / "runs")
    header = header_html(jobs)
    assert "<span>3 ranks on A100, H100</span>" in header
    assert (
        'title="Cards differ: A100, H100; all take &quot;bf16&quot;">fast (Ampere and later)</abbr>' in header
    )
    facts = json.loads(html.unescape(header.partition('data-vaes="')[2].partition('"')[0]))
    assert facts == {
        vae.name: {"label": vae.name, "path": vae.path.name, "reason": "C" + vae.path.reason[1:], "chunk": 1}
    }, "what the page shows once another VAE is chosen"
    with TestClient(Starlette(routes=make_routes(jobs, History(jobs)))) as client:
        health = client.get("/health").json()
    assert health["state"] == "ready" and {"boot", "last_words"} < set(health)
    assert (health["path"], health["path_reason"]) == ("fast (Ampere and later)", vae.path.reason)
