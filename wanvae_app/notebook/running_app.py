"""launch: the page in a notebook's cell, served by an app that ends with the notebook's kernel."""

from __future__ import annotations

import html
import importlib.util
import os
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import IO

from wanvae_app.assets import PACKAGE
from wanvae_app.cli.page_watch import WILDCARDS, is_answered
from wanvae_app.cli.ports import check_port, free_port
from wanvae_app.cli.supervisor import GRACE
from wanvae_app.notebook.cell_output import CellOutput

Option = str | int | float | bool | Path | Sequence[str | Path] | None
LOOPBACK = "127.0.0.1"
POLL_INTERVAL = 0.25  # seconds between two looks at whether the page answers
ANSWER_SECONDS = 5.0  # for one answer: a busy machine is slow
LOG_END = 16_384  # bytes of the log that are searched for the reason of a failure
# What programs put in front of a sentence: the time and rank of a log, the name of an exception.
REASON = re.compile(r"(?:cannot start|error|Error): (?P<sentence>.+)")

_latest: RunningApp | None = None  # of this program


class RunningApp:
    """An app with its ranks, in processes of its own. It ends with this program, or when it is closed.

    `launch` makes it. `url` is the page's address on this machine. As a context manager it closes itself.
    """

    def __init__(self, url: str, supervisor: subprocess.Popen[bytes], log: IO[bytes]) -> None:
        self.url = url
        self._supervisor = supervisor
        self._log = log
        self._output: CellOutput | None = None  # what shows the page

    def __repr__(self) -> str:
        return f"<RunningApp {self.url} {'running' if self.is_running else 'ended'}>"

    def __enter__(self) -> RunningApp:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @property
    def is_running(self) -> bool:
        """Whether the app has not ended."""
        return self._supervisor.poll() is None

    @property
    def log(self) -> str:
        """The end of what its ranks have printed."""
        size = os.fstat(self._log.fileno()).st_size
        return os.pread(self._log.fileno(), LOG_END, max(0, size - LOG_END)).decode(errors="replace")

    def close(self) -> None:
        """End all processes of the app, and wait for that. Closing it again does nothing."""
        if self._supervisor.stdin is not None:
            self._supervisor.stdin.close()
        try:
            self._supervisor.wait(3 * GRACE)
        except subprocess.TimeoutExpired:  # as while it is stopped; the app ends with it
            self._supervisor.kill()
            self._supervisor.wait()
        if self._output is not None:
            self._output.update("The page is closed.", "The page is closed.")
            self._output = None

    def show(self, height: int, output: CellOutput) -> None:
        """Show the page, `height` pixels high, until it is closed."""
        address = html.escape(self.url)
        frame = f'<iframe src="{address}" width="100%" height="{height}" style="border:0" allowfullscreen></iframe>'
        link = f'<a href="{address}" target="_blank" rel="noopener">{address}</a>'
        output.update(
            f"{frame}<div>The page, for a tab of its own: {link}</div>", f"The page is at {self.url}"
        )
        self._output = output

    def wait_ready(self, host: str, port: int, timeout: float, output: CellOutput | None) -> None:
        """Wait until the page answers; tell the newest line of the log in `output` meanwhile.

        Raises RuntimeError with the reason if the app ends, TimeoutError if there is no answer for `timeout` seconds.
        """
        limit = time.monotonic() + timeout
        told = ""
        while not is_answered(host, port, ANSWER_SECONDS):
            if not self.is_running:
                raise RuntimeError(f"The page could not be started: {reason(self.log)}")
            if time.monotonic() > limit:
                raise TimeoutError(
                    f"The page gave no answer within {timeout:g} s. The app's log ends with: {last_line(self.log)}"
                )
            if output is not None and (line := last_line(self.log)) != told:
                told = line
                output.update(f"<code>{html.escape(line)}</code>", line)
            time.sleep(POLL_INTERVAL)


def start_app(command: Sequence[str], url: str, environment: Mapping[str, str]) -> RunningApp:
    """Start a command that serves `url`, with these variables besides this program's own."""
    log = tempfile.TemporaryFile()  # noqa: SIM115, open as long as the app's handle
    supervisor = subprocess.Popen(
        [sys.executable, "-m", "wanvae_app.cli.supervisor", str(os.getpid()), *command],
        cwd=PACKAGE.parent,  # where the package is found, whether or not it is installed
        env={**os.environ, "WANVAE_CALLER": os.getcwd(), "PYTHONUNBUFFERED": "1", **environment},
        stdin=subprocess.PIPE,  # its end tells the supervisor to end the app
        stdout=log,
        stderr=subprocess.STDOUT,
        start_new_session=True,  # interrupting a cell does not interrupt the app
    )
    return RunningApp(url, supervisor, log)


def launch(
    *,
    inline: bool = True,
    height: int = 960,
    port: int | None = None,
    timeout: float = 600.0,
    **options: Option,
) -> RunningApp:
    """Start the app with its page, and show that in the cell, `height` pixels high; return a handle to close it.

    `port` is the page's port, a free one by default. `timeout` is how many seconds it may take to start, which includes
    fetching weights. All other arguments are options of `wanvae serve`: `launch(vae="Wan2.1_VAE.pth", gpus=2)` means
    --vae Wan2.1_VAE.pth --gpus 2. A list gives an option several times, None or False not at all. The app ends with
    this program, when it is closed, and at the next launch. inline=False shows nothing.

    Raises ValueError for a port where nothing can listen, ModuleNotFoundError without Gradio, RuntimeError with the
    app's own sentence if it does not start, and TimeoutError; nothing is left running then.
    """
    global _latest
    if importlib.util.find_spec("gradio") is None:
        raise ModuleNotFoundError(
            f"The page needs Gradio, which {sys.executable} does not have: install it with pip install gradio, or "
            "choose the kernel of the environment where wanvae_app was installed.",
            name="gradio",
        )
    host, auth = str(options.get("host") or LOOPBACK), options.pop("auth", None)
    if _latest is not None:
        _latest.close()
    port = free_port() if port is None else port
    check_port(host, port)
    environment = {"WANVAE_AUTH": str(auth)} if auth else {}  # command lines can be read by all users
    command = [sys.executable, "-m", "wanvae_app.cli.launch", "--port", str(port), *command_line(options)]
    output = CellOutput("Starting...", "Starting...") if inline else None
    app = _latest = start_app(command, page_url(host, port), environment)
    try:
        app.wait_ready(host, port, timeout, output)
    except BaseException as error:  # a KeyboardInterrupt, too
        app.close()
        if output is not None:
            output.update("The page was not started.", f"The page was not started: {error}")
        raise
    if output is not None:
        app.show(height, output)
    return app


def page_url(host: str, port: int) -> str:
    """Return the address of a page that listens at `host`, as this machine reaches it.

    Loopback is called localhost, as Jupyter calls itself: only within one site does a frame get its cookies.
    """
    name = "localhost" if host == LOOPBACK else WILDCARDS.get(host, host).strip("[]")
    return f"http://[{name}]:{port}/" if ":" in name else f"http://{name}:{port}/"


def command_line(options: Mapping[str, Option]) -> list[str]:
    """Return arguments as options of a command line: allow_host=["a", "b"] as --allow-host=a --allow-host=b."""
    words = []
    for name, value in options.items():
        option = f"--{name.replace('_', '-')}"
        if value is None or isinstance(value, bool):
            words += [option] if value else []
            continue
        values = [value] if isinstance(value, str | int | float | Path) else value
        words += [f"{option}={each}" for each in values]  # a value may begin with a dash
    return words


def reason(log: str) -> str:
    """Return why an app did not start: the last sentence of its log that says so, else its last line."""
    found = [match["sentence"] for line in log.splitlines() if (match := REASON.search(line))]
    return found[-1].strip() if found else last_line(log)


def last_line(log: str) -> str:
    """Return the last line of a log that is not empty."""
    lines = [line.strip() for line in log.splitlines() if line.strip()]
    return lines[-1] if lines else "it has printed nothing yet"
