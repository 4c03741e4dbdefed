"""The client of the remote VAE: light to import, and one sentence for every server that answers badly or not at all."""

from __future__ import annotations

import json
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import pytest
import torch
from support.app_runner import ROOT

from wanvae_app import remote

Z = np.zeros((1, 16, 1, 4, 3), np.float32)
OK = b"HTTP/1.1 200 OK\r\nshape: [1, 32, 24, 3]\r\nConnection: close\r\n\r\n"
LIGHT = """
import sys, wanvae_app
assert wanvae_app.remote.decode
heavy = {"torch", "gradio", "PIL", "wanvae_app.config"} & set(sys.modules)
assert not heavy, heavy
"""


def record(index: int, payload: bytes) -> bytes:
    return remote.RECORD_HEADER.pack(index, len(payload), 0.0) + payload


@contextmanager
def server(answer: bytes | None) -> Iterator[str]:
    """The address of a server that reads one request and sends these bytes; with None it stays silent."""
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def serve() -> None:
            connection, _ = listener.accept()
            with connection:
                connection.settimeout(5)
                request = b""
                while not request.endswith(Z.tobytes()):
                    request += connection.recv(2**16)
                if answer is None:
                    connection.recv(1)
                else:
                    connection.sendall(answer)

        thread = threading.Thread(target=serve, daemon=True)
        thread.start()
        yield f"http://127.0.0.1:{listener.getsockname()[1]}"
        thread.join(5)


def test_importing_it_is_light() -> None:
    subprocess.run([sys.executable, "-c", LIGHT], check=True, cwd=ROOT)


@pytest.mark.parametrize(
    ("answer", "told"),
    [
        (b"HTTP/1.1 200 OK\r\nConnection: close\r\n\r\nhello", "not as a remote VAE does"),
        (b"HTTP/1.1 502 Bad Gateway\r\nConnection: close\r\n\r\n<html>", "answered with status 502"),
        (b"HTTP/1.1 400 Bad\r\nConnection: close\r\n\r\n" + json.dumps({"detail": "No."}).encode(), "^No.$"),
        (b"", "was lost"),
        (OK, "broke its answer off"),
        (OK + record(0, bytes(32 * 24 * 3)), "broke its answer off"),
        (OK + remote.RECORD_HEADER.pack(0, 2**31, 0.0), "which is no frame"),
        (OK + record(remote.END_INDEX, b'{"state": "finished"}'), "sent 0 of 1 frames"),
        (
            OK + record(remote.END_INDEX, b'{"state": "failed", "detail": "Rank 1 failed."}'),
            "^Rank 1 failed.$",
        ),
        (None, "silent for too long"),
    ],
)
def test_bad_answers_are_one_sentence(answer: bytes | None, told: str) -> None:
    with server(answer) as url, pytest.raises(remote.RemoteError, match=told) as failure:
        list(remote.decode(url, Z, scaling="raw", timeout=0.5 if answer is None else 5))
    assert "\n" not in str(failure.value) and str(failure.value).endswith(".")


def test_no_server_and_no_password_in_sentences() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
    with pytest.raises(remote.RemoteError, match="is not reached: Connection refused") as failure:
        next(remote.decode(f"http://ann:secret@127.0.0.1:{port}", Z, scaling="raw"))
    assert "secret" not in str(failure.value)
    with pytest.raises(ValueError, match="is no address") as wrong:
        next(remote.decode("ann:secret@host", Z, scaling="raw"))
    assert "secret" not in str(wrong.value)


def test_arguments_are_checked_at_once() -> None:
    url = "http://127.0.0.1:9"
    with pytest.raises(ValueError, match="scaling='auto' is not known"):
        remote.decode(url, Z, scaling="auto")
    with pytest.raises(ValueError, match="is not exact"):
        remote.decode(url, Z, scaling="raw", image_format="jpg")
    with pytest.raises(ValueError, match="is a tensor or an array"):
        remote.decode(url, [1.0], scaling="raw")  # type: ignore[arg-type]


def test_tensors_are_sent_as_they_read_not_as_they_lie() -> None:
    x = torch.arange(24.0).reshape(2, 3, 4).permute(2, 0, 1)
    for clip in (x, x.bfloat16(), x.numpy()):
        shape, dtype, data = remote._sent(clip)
        given = torch.frombuffer(bytearray(data), dtype=getattr(torch, dtype)).reshape(shape)
        assert torch.equal(given.float(), x)
