"""Everything that takes many GPUs to check, in one command and under ten minutes on eight H100 or H200:

    python3 tests/many_gpus.py                           # all GPUs; PYTHON=... names another Python
    WHEELS=folder python3 tests/many_gpus.py --gpus 8    # a machine without a network: wheels lie in the folder
    python3 tests/many_gpus.py --cpu 2                   # the same on processes of the CPU, on a tiny case

Needs a Python that has torch. Each step's result is printed once it is there, a step that fails or takes too long
does not keep the others from running, and the exit code says whether all of them passed.
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

ROOT = Path(__file__).resolve().parent.parent
NEEDED = {  # by the name they are imported by
    "gradio": "gradio>=6.31,<7", "imageio": "imageio", "imageio_ffmpeg": "imageio-ffmpeg", "pytest": "pytest",
    "safetensors": "safetensors",
}  # fmt: skip
# Fairly cut by 2, 4 and 8 ranks, or not: 1080 rows are 135 latent ones, 480 are 60.
GPU_CASES = ["decode:480x832x81", "decode:720x1280x81", "decode:1080x1920x81"]
CPU_CASES = ["decode:96x64x9"]
MINUTES = 9.7  # for everything; the tests come last and have what the others left
LIMITS = {"install": 90.0, "bench": 100.0, "app": 130.0}  # seconds
ERROR = re.compile(r"(\[rank\d+\]:\s*)?(?!.*ChildFailedError)([\w.]+(Error|Exception)|FAILED)\b")
ENDING = 20.0  # seconds that a step has to end in, when its time is up


class Steps:
    """Runs the steps, prints what became of each, and knows whether all passed."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.failed: list[str] = []
        path = _path(str(ROOT), str(ROOT / "tests"), os.environ.get("PYTHONPATH"))
        self.environment = {**os.environ, "PYTHONPATH": path}
        self._begun = time.monotonic()

    @property
    def left(self) -> float:
        """Seconds until everything must be over."""
        return MINUTES * 60 - (time.monotonic() - self._begun)

    def tell(self, passed: bool, name: str, seconds: float, words: str) -> None:
        """A step's result."""
        if not passed:
            self.failed.append(name)
        print(f"{'PASS' if passed else 'FAIL'} {name}, {seconds:.1f} s: {words}", flush=True)

    def run(self, name: str, command: list[str], limit: float, shown: bool = False) -> tuple[str, float, str]:
        """A command; returns why it failed ("" if it did not), its seconds, and what it printed. What it says beside,
        and unless it is `shown` at once also what it prints, is in files of the folder."""
        start, reason = time.monotonic(), ""
        out, err = self.folder / f"{name}.out", self.folder / f"{name}.err"
        with out.open("wb") as stdout, err.open("wb") as stderr:
            process = subprocess.Popen(
                command,
                cwd=ROOT,
                env=self.environment,
                stdout=None if shown else stdout,
                stderr=stderr,
                start_new_session=True,
            )
            limit = max(1.0, min(limit, self.left))
            try:
                if process.wait(limit):
                    reason = f"exit code {process.returncode}"
            except subprocess.TimeoutExpired:
                reason = f"not done within {limit:.0f} s"
                process.terminate()  # torchrun ends its ranks, which are in sessions of their own
                try:
                    process.wait(ENDING)
                except subprocess.TimeoutExpired:
                    os.killpg(process.pid, signal.SIGKILL)
                    process.wait()
        printed = out.read_text(errors="replace")
        if reason:
            lines = (printed + err.read_text(errors="replace")).splitlines()
            told = [line for line in lines if ERROR.match(line)][:4] or lines[-12:]
            reason = "\n    ".join([f"{reason}; {self.folder}/{name}.out and .err say", *told])
        return reason, time.monotonic() - start, printed


def install(steps: Steps) -> None:
    """Put what this Python lacks into a folder of its own; the environment stays as it is."""
    missing = [name for name in NEEDED if importlib.util.find_spec(name) is None]
    if not missing:
        steps.tell(True, "install", 0.0, "nothing is lacking")
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
    if reason and files:  # what they need in turn may be there already, where pip does not look
        command = [*pip, "--no-index", "--no-deps", "--upgrade", *files]
        reason, more, _ = steps.run("install", command, LIMITS["install"])
        seconds += more
    steps.environment["PYTHONPATH"] = _path(site, steps.environment["PYTHONPATH"])
    sys.path.insert(0, site)
    importlib.invalidate_caches()
    steps.tell(not reason, "install", seconds, reason or f"{', '.join(missing)} into {site}")


def bench(steps: Steps, device: str, num_ranks: int, cases: list[str], vae: str | None) -> None:
    """The benchmark of each case on 1, 2, 4 and 8 ranks, as far as there are so many, and on all."""
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
            steps.tell(False, name, seconds, reason)
            continue
        (steps.folder / f"{name}.json").write_text(printed)
        found = [Result(**result) for result in json.loads(printed)]
        times = (f"{r.seconds:.3f} s on {r.ranks} ({r.speedup or 1:.2f}x)" for r in found)
        steps.tell(True, name, seconds, ", ".join(times))
        results += found
    if results:
        lines = [table_head(TIME_HEADINGS), *map(time_row, results)]
        print("\n".join(["", *lines, "", ranks_table(results), ""]), flush=True)


def app(steps: Steps, device: str, num_ranks: int) -> None:
    """The app on all ranks, from a program; its own results are printed as they come."""
    where = ["--cpu" if device == "cpu" else "--gpus", str(num_ranks)]
    command = [sys.executable, str(ROOT / "tests" / "support" / "many_ranks_app.py"), *where]
    command += ["--log", str(steps.folder / "app.log")]
    reason, seconds, _ = steps.run("app", command, LIMITS["app"], shown=True)
    steps.tell(not reason, "app", seconds, reason or f"all of it on {num_ranks} ranks")


def tests(steps: Steps, device: str) -> None:
    """Sharded against single, in both directions and versions, for the numbers of ranks that there are."""
    file = "tests/fast/test_gpu.py" if device == "cuda" else "tests/model/test_model_ranks.py"
    command = [sys.executable, "-m", "pytest", file, "-q", "-rfE", "-p", "no:cacheprovider"]
    reason, seconds, printed = steps.run("tests", command, steps.left)
    steps.tell(not reason, f"pytest {file}", seconds, reason or printed.strip().rpartition("\n")[2])


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
    everything = [
        ("install", lambda: install(steps)),
        (
            "bench",
            lambda: bench(steps, device, num_ranks, cases, args.vae or (None if args.cpu else "wan2.1")),
        ),
        ("app", lambda: app(steps, device, num_ranks)),
        ("tests", lambda: tests(steps, device)),
    ]
    for name, step in everything:
        try:
            step()
        except Exception as error:
            steps.tell(False, name, 0.0, f"{type(error).__name__}: {error}")
    seconds = MINUTES * 60 - steps.left
    print(f"{seconds:.0f} s; " + (f"failed: {', '.join(steps.failed)}" if steps.failed else "all passed"))
    sys.exit(bool(steps.failed))


def _path(*parts: str | None) -> str:
    return os.pathsep.join(filter(None, parts))


if __name__ == "__main__":
    main()
