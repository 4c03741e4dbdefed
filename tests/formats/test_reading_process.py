"""Latents are read in a process of its own, whose limits, faults and end cost one sentence here."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import torch
from support.video_files import pattern

from wanvae_app.config import PRESETS
from wanvae_app.formats import reading_process
from wanvae_app.formats.latent_file import parse_latent
from wanvae_app.formats.latents import read_latent, stored_scaling, write_latent
from wanvae_app.formats.limits import Limits, limits_for

WAN = PRESETS["wan2.1"]
ROOT = Path(__file__).resolve().parents[2]
TOO_MUCH = (
    r"^fifo cannot be read: it takes more time or memory than a latent of its size; save it again, .*\.$"
)


@pytest.fixture(scope="module")
def latent(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("latent") / "z.safetensors"
    write_latent(torch.randn(1, 16, 2, 6, 8), path, WAN)
    return path


@pytest.fixture
def fifo(tmp_path: Path) -> Path:
    """A file that a reader waits for without end, as nobody writes to it."""
    os.mkfifo(tmp_path / "fifo")
    return tmp_path / "fifo"


def children(pid: int) -> list[int]:
    return [
        int(child)
        for task in Path(f"/proc/{pid}/task").iterdir()
        for child in (task / "children").read_text().split()
    ]


def is_alive(pid: int) -> bool:
    """Whether the process exists, and is no zombie."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


def wait_for(condition: object, seconds: float = 20.0) -> None:
    assert callable(condition)
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "it does not happen"
        time.sleep(0.02)


def server() -> int:
    """The id of the process that forks for each file."""
    reading_process.start()
    process = reading_process._server._process
    assert process is not None
    return process.pid


def test_the_same_as_here(latent: Path, tmp_path: Path) -> None:
    z = read_latent(latent, WAN)
    assert torch.equal(z, parse_latent(latent, WAN)) and z.dtype == torch.float32
    z += 1  # it belongs to the caller
    assert stored_scaling(latent) == "normalised"
    torch.save(z, tmp_path / "z.pt")
    assert stored_scaling(tmp_path / "z.pt") is None
    with pytest.raises(ValueError, match="16 channels where this VAE has 48"):
        read_latent(latent, PRESETS["wan2.2"])
    with pytest.raises(FileNotFoundError):
        read_latent(tmp_path / "missing.pt", WAN)


def test_from_many_threads(latent: Path, tmp_path: Path) -> None:
    (tmp_path / "text.pt").write_text("text")
    expected = parse_latent(latent, WAN)

    def read(i: int) -> bool:
        if i % 3 == 0:
            with pytest.raises(ValueError, match=r"text\.pt is not a latent"):
                read_latent(tmp_path / "text.pt", WAN)
            return True
        return torch.equal(read_latent(latent, WAN), expected)

    with ThreadPoolExecutor(12) as threads:
        assert all(threads.map(read, range(36)))


def test_one_process_serves_all_files(latent: Path) -> None:
    """PyTorch is imported once: reading a small file takes a few hundredths of a second."""
    before = server()
    read_latent(latent, WAN)
    times = []
    for _ in range(5):
        start = time.monotonic()
        read_latent(latent, WAN)
        times.append(time.monotonic() - start)
    assert server() == before and min(times) < 0.3, times
    wait_for(lambda: not children(before))  # each file's process ends


def test_a_process_that_is_killed_costs_a_sentence(latent: Path, fifo: Path) -> None:
    with ThreadPoolExecutor() as threads:
        reading = threads.submit(read_latent, fifo, WAN)
        wait_for(lambda: children(server()))
        assert read_latent(latent, WAN).shape == (1, 16, 2, 6, 8), "others read meanwhile"
        os.kill(children(server())[0], signal.SIGKILL)
        with pytest.raises(ValueError, match=TOO_MUCH):
            reading.result(20)
    read_latent(latent, WAN)


def test_a_process_that_hangs_costs_a_sentence(fifo: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    server()
    monkeypatch.setattr(reading_process, "START_SECONDS", 0.3)
    monkeypatch.setattr(reading_process, "WALL_FACTOR", 0)
    with pytest.raises(ValueError, match=TOO_MUCH):
        read_latent(fifo, WAN)
    (child,) = children(server())
    # The kernel ends it: SIGALRM is left at its default, and the timer runs.
    status = Path(f"/proc/{child}/status").read_text()
    blocked_or_caught = sum(
        int(re.findall(rf"{name}:\s+(\w+)", status)[0], 16) for name in ("SigBlk", "SigCgt")
    )
    assert not blocked_or_caught >> (signal.SIGALRM - 1) & 1
    os.kill(child, signal.SIGALRM)
    wait_for(lambda: not is_alive(child))


def test_the_limits_of_a_file_are_set(fifo: Path) -> None:
    with ThreadPoolExecutor() as threads:
        reading = threads.submit(read_latent, fifo, WAN)
        wait_for(lambda: children(server()))
        (child,) = children(server())
        expected = limits_for(0)
        limits = Path(f"/proc/{child}/limits")
        wait_for(lambda: re.search(rf"Max cpu time +{expected.cpu_seconds} ", limits.read_text()))
        text = limits.read_text()
        for name, value in (
            ("open files", expected.open_files),
            ("file size", expected.written_bytes),
            ("core file size", 0),
        ):
            assert re.search(rf"Max {name} +{value} ", text), text
        assert re.search(r"Max address space +\d", text)
        os.kill(child, signal.SIGKILL)
        with pytest.raises(ValueError, match=TOO_MUCH):
            reading.result(20)


def test_the_server_is_started_again(latent: Path) -> None:
    before = server()
    os.kill(before, signal.SIGKILL)
    wait_for(lambda: not is_alive(before))
    assert read_latent(latent, WAN).shape == (1, 16, 2, 6, 8)
    assert server() != before


HOGS = {
    "memory": ("bytearray(2**30)", "MemoryError"),
    "time": ("\nwhile True: pass", ""),
    "disk": ("open('large', 'wb').write(bytes(2**21))", ""),
    "files": ("[open('/dev/null') for _ in range(99)]", "Too many open files"),
}


@pytest.mark.parametrize("kind", HOGS)
@pytest.mark.parametrize("own", [True, False])
def test_limits(kind: str, own: bool, tmp_path: Path) -> None:
    """A command that takes too much fails or is killed, whether it set its limits or was started with them."""
    code, error = HOGS[kind]
    limits = Limits(cpu_seconds=1, memory_bytes=2**28, written_bytes=2**20)
    if own:
        code = f"from wanvae_app.formats.limits import Limits; {limits}.apply()\n{code}"
    command = [sys.executable, "-c", code]
    finished = subprocess.run(
        command if own else limits.command(command),
        cwd=tmp_path,
        env=os.environ | {"PYTHONPATH": str(ROOT), "OPENBLAS_NUM_THREADS": "1"},
        capture_output=True,
        timeout=30,
    )
    assert finished.returncode != 0 and error.encode() in finished.stderr, finished
    assert not (tmp_path / "large").exists() or (tmp_path / "large").stat().st_size <= 2**20


def test_a_command_without_excess_runs_as_before(tmp_path: Path) -> None:
    limits = Limits(cpu_seconds=9, memory_bytes=2**28)
    command = limits.command(["printf", "%s|", "a b", "$x;", "'"])
    assert subprocess.run(command, capture_output=True, check=True).stdout == b"a b|$x;|'|"


PARENT = """
import os, sys, time
from pathlib import Path
from wanvae_app.config import PRESETS
from wanvae_app.formats import reading_process
from wanvae_app.formats.latents import read_latent
from wanvae_app.formats.video import read_video

latent, fifo, video = map(Path, sys.argv[1:])
read_latent(latent, PRESETS["wan2.1"])
import threading
threading.Thread(target=lambda: read_latent(fifo, PRESETS["wan2.1"]), daemon=True).start()

def wait(*_):
    print("reading", flush=True)
    time.sleep(60)

read_video(video, PRESETS["wan2.1"], None, on_progress=wait)
"""


def test_nothing_outlives_the_app(latent: Path, fifo: Path, tmp_path: Path) -> None:
    """Killed while it reads a latent and a video, which leaves it no time to tidy up."""
    video = pattern(tmp_path / "a.mkv", "-c:v", "ffv1", size="640x480", frames=60)
    with subprocess.Popen(
        [sys.executable, "-c", PARENT, latent, fifo, video],
        stdout=subprocess.PIPE,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
    ) as parent:
        assert parent.stdout is not None
        assert parent.stdout.readline() == b"reading\n"
        started = children(parent.pid)
        wait_for(lambda: any(children(pid) for pid in started))  # the process for the latent
        started += [child for pid in started for child in children(pid)]
        assert len(started) == 3, started
        parent.kill()
    wait_for(lambda: not any(map(is_alive, started)))
