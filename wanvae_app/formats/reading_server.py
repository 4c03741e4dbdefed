"""The process that reads files which are not trusted: python -m wanvae_app.formats.reading_server DESCRIPTOR.

`reading_process` starts it and holds the other end of the socket DESCRIPTOR. It imports PyTorch once, and forks for
each file. The fork sets its own limits, reads the file, answers, and ends. What befalls it befalls nothing else.
"""

from __future__ import annotations

import contextlib
import ctypes
import json
import os
import signal
import socket
import sys
from pathlib import Path
from typing import Any, NoReturn

from wanvae_app.config import WanConfig
from wanvae_app.formats.latent_file import (
    ClipChoice,
    clip_labels,
    latent_shape,
    parse_clip,
    stored_facts,
)
from wanvae_app.formats.limits import WALL_FACTOR, limits_for

PR_SET_PDEATHSIG = 1  # prctl(2)


def serve(control: socket.socket) -> None:
    """Answer requests until the process at the other end of `control` ends or closes it."""
    # Ctrl-C reaches every process of a terminal; this one ends when its socket closes.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # nobody waits for the forks
    server = os.getpid()
    while received := _receive(control):
        request, descriptors = received
        try:
            if os.fork() == 0:
                control.close()
                _answer(request, *descriptors, server=server)
        except OSError as error:  # no process or memory left; the other end sees the socket close
            print(f"No process to read a file: {error}", file=sys.stderr, flush=True)
        for descriptor in descriptors:
            os.close(descriptor)


def _receive(control: socket.socket) -> tuple[dict[str, Any], list[int]] | None:
    """A request and its two descriptors: the socket to answer on, and the file for values. None at the end."""
    head, descriptors, _, _ = socket.recv_fds(control, 4, 2)
    if len(head) < 4:
        return None
    length, text = int.from_bytes(head, "little"), b""
    while len(text) < length:
        part = control.recv(length - len(text))  # the next request may follow
        if not part:
            return None
        text += part
    request: dict[str, Any] = json.loads(text)
    return request, descriptors


def _answer(request: dict[str, Any], reply: int, values: int, *, server: int) -> NoReturn:
    """Read the file of a request, answer, and end this process."""
    answer: dict[str, Any]
    path = Path(request["path"])
    try:
        _confine(path, server)
        answer = _carry_out(request, path, values)
    except ValueError as error:
        answer = {"refusal": str(error)}
    except MemoryError:
        answer = {}
    except OSError as error:
        answer = {"errno": error.errno, "error": error.strerror or str(error)}
    with socket.socket(fileno=reply) as connection:
        connection.sendall(json.dumps(answer).encode())
    os._exit(0)


def _carry_out(request: dict[str, Any], path: Path, values: int) -> dict[str, Any]:
    """Do what a request asks; a latent's values go into the file `values`."""
    if request["task"] == "facts":
        return {"facts": stored_facts(path)}
    config = WanConfig(z_dim=request["channels"])
    if request["task"] == "labels":
        return {"labels": clip_labels(path, config, request["order"])}
    choice = ClipChoice(*request["choice"])
    if request["task"] == "shape":
        return {"shape": latent_shape(path, config, choice)}
    z, order = parse_clip(path, config, choice)
    with open(values, "wb", closefd=False) as file:
        file.write(z.numpy().data)
    return {"shape": list(z.shape), "order": order}


def _confine(path: Path, server: int) -> None:
    """Limit this process to what reading the file takes, and let it end with the server."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
        if os.getppid() != server:  # it ended before
            os._exit(1)
        with contextlib.suppress(OSError):  # a system that forbids it
            Path("/proc/self/oom_score_adj").write_text("1000")  # short of memory, the system ends this first
    os.nice(5)  # the ranks come first
    limits = limits_for(path.stat().st_size)
    limits.apply()
    signal.setitimer(signal.ITIMER_REAL, WALL_FACTOR * limits.cpu_seconds)  # SIGALRM ends the process


if __name__ == "__main__":
    serve(socket.socket(fileno=int(sys.argv[1])))
