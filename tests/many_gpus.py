"""Checks everything that needs many GPUs, in one command and under ten minutes on eight H100 or H200:

    python3 tests/many_gpus.py                           # all GPUs; PYTHON=... names another Python
    WHEELS=folder python3 tests/many_gpus.py --gpus 8    # without a network: installs the wheels in the folder
    python3 tests/many_gpus.py --cpu 2                   # the same on processes of the CPU, with a tiny case

Needs a Python that has torch. Prints each step's result when it is there. If a step fails or takes too long, the others
still run. The exit code is 0 if all passed.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).resolve().parent.parent
NEEDED = {  # requirements, by the name of the module
    "gradio": "gradio>=6.31,<7", "imageio": "imageio", "imageio_ffmpeg": "imageio-ffmpeg", "pytest": "pytest",
    "safetensors": "safetensors",
}  # fmt: skip
# Some divide evenly among 2, 4 and 8 ranks, some do not: 1080 rows are 135 latent rows, 480 are 60.
GPU_CASES = ["decode:480x832x81", "decode:720x1280x81", "decode:1080x1920x81"]
CPU_CASES = ["decode:96x64x9"]
MINUTES = 9.7  # for all steps together
# Seconds of one command of each step. The tests come last and have what is left.
LIMITS = {"install": 90.0, "bench": 100.0, "app": 130.0}
ERROR = re.compile(r"(\[rank\d+\]:\s*)?(?!.*ChildFailedError)([\w.]+(Error|Exception)|FAILED)\b")
ENDING = 20.0  # seconds for a command to end after SIGTERM


class Outcome(NamedTuple):
    """What became of a command."""

    reason: str  # why it failed; "" if it did not
    seconds: float
    printed: str  # its stdout


class Steps:
    """Runs commands within limits of time, prints the result of each step, and keeps the names of failed ones."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.failed: list[str] = []
        path = _path(str(ROOT), str(ROOT / "tests"), os.environ.get("PYTHONPATH"))
        self.environment = {**os.environ, "PYTHONPATH": path}
        self._begun = time.monotonic()

    @property
    def left(self) -> float:
        """Seconds until all steps must be done."""
        return MINUTES * 60 - (time.monotonic() - self._begun)

    def report(self, passed: bool, name: str, seconds: float, sentence: str) -> None:
        """Print a step's result."""
        if not passed:
            self.failed.append(name)
        print(f"{'PASS' if passed else 'FAIL'} {name}, {seconds:.1f} s: {sentence}", flush=True)

    def run(self, name: str, command: list[str], limit: float, shows: bool = False) -> Outcome:
        """Run a command for at most `limit` seconds.

        Its stderr goes to a file in the folder. So does its stdout, unless `shows` sends that to this process's.
        """
        start, reason = time.monotonic(), ""
        out, err = self.folder / f"{name}.out", self.folder / f"{name}.err"
        with out.open("wb") as stdout, err.open("wb") as stderr:
            process = subprocess.Popen(
                command,
                cwd=ROOT,
                env=self.environment,
                stdout=None if shows else stdout,
                stderr=stderr,
                start_new_session=True,
            )
            limit = max(1.0, min(limit, self.left))
            try:
                if process.wait(limit):
                    reason = f"exit code {process.returncode}"
            except subprocess.TimeoutExpired:
                reason = f"not done within {limit:.0f} s"
                process.terminate()  # not killed: torchrun ends its ranks, which killing its process group would miss
                try:
                    process.wait(ENDING)
                except subprocess.TimeoutExpired:
                    os.killpg(process.pid, signal.SIGKILL)
                    process.wait()
        printed = out.read_text(errors="replace")
        if reason:
            lines = (printed + err.read_text(errors="replace")).splitlines()
            excerpt = [line for line in lines if ERROR.match(line)][:4] or lines[-12:]
            reason = "\n    ".join([f"{reason}; {self.folder}/{name}.out and .err say", *excerpt])
        return Outcome(reason, time.monotonic() - start, printed)


def install(steps: Steps) -> None:
    """Install what this Python lacks into a temporary folder. The environment stays as it is."""
    missing = [name for name in NEEDED if importlib.util.find_spec(name) is None]
    if not missing:
        steps.report(True, "install", 0.0, "nothing is lacking")
        return
    site, wheels = tempfile.mkdtemp(prefix="many-gpus-site-"), os.environ.get("WHEELS")
    pip = [sys.executable, "-m", "pip", "install", "--quiet", "--no-compile", "--disable-pip-version-check"]
    pip += ["--target", site]
    names = [NEEDED[name] for name in missing]
    if wheels:
        command = [*pip, "--no-index", "--find-links", wheels, *names]
    else:
        command = [*pip, "-c", str(ROOT / "constraints.txt"), *names]
    reason, seconds, _ = steps.run("install", command, LIMITS["install"])
    files = sorted(map(str, Path(wheels).glob("*.whl"))) if wheels else []
    if reason and files:  # their own requirements may be installed where pip does not look
        command = [*pip, "--no-index", "--no-deps", "--upgrade", *files]
        reason, more, _ = steps.run("install", command, LIMITS["install"])
        seconds += more
    steps.environment["PYTHONPATH"] = _path(site, steps.environment["PYTHONPATH"])
    sys.path.insert(0, site)
    importlib.invalidate_caches()
    steps.report(not reason, "install", seconds, reason or f"{', '.join(missing)} into {site}")


def bench(steps: Steps, device: str, num_ranks: int, cases: list[str], vae: str | None) -> None:
    """Run the benchmark of each case on all ranks, and on 1, 2, 4 and 8 if there are so many."""
    from wanvae_app.bench.results import Result
    from wanvae_app.bench.tables import TIME_HEADINGS, ranks_table, table_head, time_row

    counts = ",".join(str(n) for n in sorted({1, 2, 4, 8, num_ranks}) if n <= num_ranks)
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node"]
    command += [str(num_ranks), "-m", "wanvae_app.bench", "--json", "--no-diffusers", "--device", device]
    command += ["--ranks", counts, *(["--vae", vae] if vae else [])]
    results = []
    for case in cases:
        name = f"bench-{case.replace(':', '-')}"
        reason, seconds, printed = steps.run(name, [*command, "--case", case], LIMITS["bench"])
        if reason:
            steps.report(False, name, seconds, reason)
            continue
        (steps.folder / f"{name}.json").write_text(printed)
        found = [Result(**result) for result in json.loads(printed)]
        times = (f"{r.seconds:.3f} s on {r.ranks} ({r.speedup or 1:.2f}x)" for r in found)
        steps.report(True, name, seconds, ", ".join(times))
        results += found
    if results:
        lines = [table_head(TIME_HEADINGS), *map(time_row, results)]
        print("\n".join(["", *lines, "", ranks_table(results), ""]), flush=True)


def app(steps: Steps, device: str, num_ranks: int) -> None:
    """Check the app on all ranks. Its checks print their own results."""
    where = ["--cpu" if device == "cpu" else "--gpus", str(num_ranks)]
    command = [sys.executable, str(ROOT / "tests" / "support" / "many_ranks_app.py"), *where]
    command += ["--log", str(steps.folder / "app.log")]
    reason, seconds, _ = steps.run("app", command, LIMITS["app"], shows=True)
    steps.report(not reason, "app", seconds, reason or f"all of it on {num_ranks} ranks")


def tests(steps: Steps, device: str) -> None:
    """Test that sharded results equal those of one rank, for both directions and versions of the VAE."""
    file = "tests/fast/test_gpu.py" if device == "cuda" else "tests/model/test_model_ranks.py"
    command = [sys.executable, "-m", "pytest", file, "-q", "-rfE", "-p", "no:cacheprovider"]
    reason, seconds, printed = steps.run("tests", command, steps.left)
    steps.report(not reason, f"pytest {file}", seconds, reason or printed.strip().rpartition("\n")[2])


def main() -> None:
    python = os.environ.pop("PYTHON", "")
    if python and shutil.which(python) != sys.executable:
        os.execvp(python, [python, __file__, *sys.argv[1:]])
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    where = parser.add_mutually_exclusive_group()
    where.add_argument("--gpus", type=int, metavar="N", help="use N GPUs (default: all there are)")
    where.add_argument("--cpu", type=int, metavar="N", help="use N processes on the CPU")
    parser.add_argument("--case", action="append", help="for the benchmark, may be given several times")
    vae = "for the benchmark (default: wan2.1, random weights of that size; on the CPU the demo VAE)"
    parser.add_argument("--vae", help=vae)
    parser.add_argument("--out", type=Path, help="folder for results and logs (default: a new one)")
    args = parser.parse_args()
    import torch

    device = "cpu" if args.cpu else "cuda"
    num_ranks = args.cpu or args.gpus or torch.cuda.device_count()
    if device == "cuda" and not 1 <= num_ranks <= torch.cuda.device_count():
        parser.error(f"PyTorch finds {torch.cuda.device_count()} GPUs here; give --gpus N or --cpu N")
    folder = args.out or Path(tempfile.mkdtemp(prefix="many-gpus-"))
    folder.mkdir(parents=True, exist_ok=True)
    sys.path.insert(0, str(ROOT))
    steps = Steps(folder)
    cores = len(os.sched_getaffinity(0))
    steps.environment.setdefault("OMP_NUM_THREADS", str(max(1, cores // num_ranks)))
    print(f"{num_ranks} ranks ({device}), torch {torch.__version__}; results and logs in {folder}")
    if device == "cuda":
        subprocess.run(
            ["nvidia-smi", "--query-gpu=name,driver_version", "--format=csv,noheader"], check=False
        )
    cases = args.case or (CPU_CASES if args.cpu else GPU_CASES)
    source = args.vae or (None if args.cpu else "wan2.1")
    everything = [
        ("install", lambda: install(steps)),
        ("bench", lambda: bench(steps, device, num_ranks, cases, source)),
        ("app", lambda: app(steps, device, num_ranks)),
        ("tests", lambda: tests(steps, device)),
    ]
    for name, step in everything:
        try:
            step()
        except Exception as error:
            steps.report(False, name, 0.0, f"{type(error).__name__}: {error}")
    seconds = MINUTES * 60 - steps.left
    print(f"{seconds:.0f} s; " + (f"failed: {', '.join(steps.failed)}" if steps.failed else "all passed"))
    sys.exit(bool(steps.failed))


def _path(*parts: str | None) -> str:
    return os.pathsep.join(filter(None, parts))


if __name__ == "__main__":
    main()
