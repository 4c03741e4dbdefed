"""The wheel: it holds every module and file of the app, and works far from the checkout."""

from __future__ import annotations

import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
from support.app_runner import ROOT

import wanvae_app

# In the checkout only: how the demo VAE and the samples were made, and the README's picture.
NOT_INSTALLED = {".py", ".png"}
DECODE = """
import wanvae_app
from safetensors.torch import load_file
from wanvae_app import assets
from wanvae_app.page.scripts import head
assert assets.APP.is_file() and head()
vae = wanvae_app.load_vae(device="cpu", dtype="bf16")
sample = load_file(assets.SAMPLES / "Night credits.safetensors")["latent"]
print(wanvae_app.__file__, vae.decode(sample[:, :, :1, :8, :8].float(), scaling="normalised").float().std() > 5)
"""


def run(*command: str | Path, cwd: Path, **environment: str) -> str:
    """Run a command to its end, and return what it prints."""
    found = subprocess.run(
        command, cwd=cwd, env={**os.environ, **environment}, capture_output=True, text=True, timeout=120
    )
    assert found.returncode == 0, found.stderr[-3000:]
    return found.stdout


def pip(*arguments: str | Path, cwd: Path) -> None:
    run(sys.executable, "-m", "pip", *arguments, "--no-deps", "--no-build-isolation", "--no-index", cwd=cwd)


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of what is built: a build writes beside its sources."""
    copy = tmp_path_factory.mktemp("source")
    for name in ("wanvae_app", "assets", "app.py", "pyproject.toml", "README.md", "LICENSE"):
        run("cp", "-r", ROOT / name, copy / name, cwd=copy)
    return copy


def test_the_wheel_holds_everything_and_works(source: Path, tmp_path: Path) -> None:
    pip("wheel", "--quiet", "--wheel-dir", tmp_path, source, cwd=tmp_path)
    (wheel,) = tmp_path.glob("*.whl")
    assert wheel.name.startswith(f"wanvae_app-{wanvae_app.__version__}-")
    held = {name for name in zipfile.ZipFile(wheel).namelist() if ".dist-info/" not in name}
    files = [f.relative_to(ROOT) for f in (ROOT / "wanvae_app").rglob("*") if f.is_file()]
    expected = {str(f) for f in files if "__pycache__" not in f.parts} | {"wanvae_app/start/app.py"}
    for file in (ROOT / "assets").rglob("*"):
        if file.is_file() and file.suffix not in NOT_INSTALLED | {".pyc"}:
            expected.add(f"wanvae_app/data/{file.relative_to(ROOT / 'assets')}")
    assert held == expected

    target = tmp_path / "installed"
    pip("install", "--quiet", "--target", target, wheel, cwd=tmp_path)
    found = run(sys.executable, "-c", DECODE, cwd=tmp_path, PYTHONPATH=str(target))
    assert found.split() == [str(target / "wanvae_app" / "__init__.py"), "tensor(True)"]
    assert "serve" in run(target / "bin" / "wanvae", "--help", cwd=tmp_path, PYTHONPATH=str(target))


def test_an_editable_installation_is_the_checkout(source: Path, tmp_path: Path) -> None:
    target = tmp_path / "installed"
    pip("install", "--quiet", "--target", target, "--editable", source, cwd=tmp_path)
    code = f"import site; site.addsitedir({str(target)!r}); import wanvae_app.assets as a; print(a.DEMO_VAE, a.APP)"
    # Without the site packages, where the checkout itself may be installed so.
    assert run(sys.executable, "-S", "-c", code, cwd=tmp_path).split() == [
        str(source / "assets" / "demo_vae"),
        str(source / "app.py"),
    ]
