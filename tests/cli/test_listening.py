"""Who can reach the ranks' sockets: this machine alone, whatever --host says; and whom the ranks obey."""

from __future__ import annotations

import contextlib
import ipaddress
import os
import socket
from datetime import timedelta
from pathlib import Path
from typing import NamedTuple

import pytest
import torch.distributed as dist
from support.app_runner import launched, wait_for

from wanvae_app.cli.ports import free_port
from wanvae_app.parallel.network import interface_towards, serve_store

LISTENING = "0A"  # the state of a socket, in /proc/net/tcp
NEEDS_LINUX = pytest.mark.skipif(not Path("/proc/net/tcp").exists(), reason="sockets are read from /proc")


class Listener(NamedTuple):
    address: str
    port: int


def family(pid: int) -> set[int]:
    """A process and all that it started, directly or not."""
    parents: dict[int, int] = {}
    for path in Path("/proc").glob("[0-9]*"):
        try:
            parents[int(path.name)] = int((path / "stat").read_text().rpartition(")")[2].split()[1])
        except OSError:
            continue  # it has just ended
    found = {pid}
    while more := {child for child, parent in parents.items() if parent in found} - found:
        found |= more
    return found


def listeners(pid: int) -> list[Listener]:
    """The listening TCP sockets of a process and all that it started."""
    inodes: set[str] = set()
    for each in family(pid):
        with contextlib.suppress(OSError):  # it has just ended
            for fd in list(Path(f"/proc/{each}/fd").iterdir()):
                with contextlib.suppress(OSError):  # it has just been closed
                    link = os.readlink(fd)
                    inodes |= {link[8:-1]} if link.startswith("socket:[") else set()
    found = []
    for table, width in (("tcp", 8), ("tcp6", 32)):
        for line in Path(f"/proc/net/{table}").read_text().splitlines()[1:]:
            fields = line.split()
            if fields[3] == LISTENING and fields[9] in inodes:
                host, port = fields[1].split(":")
                words = [bytes.fromhex(host[i : i + 8])[::-1] for i in range(0, width, 8)]
                found.append(Listener(str(ipaddress.ip_address(b"".join(words))), int(port, 16)))
    return found


@NEEDS_LINUX
def test_only_the_page_listens_beyond_this_machine(tmp_path: Path) -> None:
    port = free_port()
    with launched(tmp_path / "log", "--cpu", "2", "--port", str(port), "--host", "0.0.0.0") as process:
        wait_for(lambda: "Ready: " in (tmp_path / "log").read_text() or process.poll() is not None, 90)
        found = listeners(process.pid)
        assert len(found) > 3, "the page, the store, and the ranks for each other"
        open_to_others = [each for each in found if not ipaddress.ip_address(each.address).is_loopback]
        assert open_to_others == [Listener("0.0.0.0", port)], found


def test_a_store_listens_on_its_address_alone() -> None:
    store = serve_store("127.0.0.1", 0, 1, timedelta(seconds=5))
    client = dist.TCPStore("127.0.0.1", store.port, 1, False, timedelta(seconds=5))
    client.set("key", "value")
    assert store.get("key") == b"value"
    with socket.socket() as stranger, pytest.raises(OSError):
        stranger.settimeout(5)
        stranger.connect(("127.0.0.2", store.port))  # another address of this same machine


def test_an_address_of_another_machine_is_refused() -> None:
    with pytest.raises(ValueError, match=r"192\.0\.2\.1, port .* an address of this machine"):
        serve_store("192.0.2.1", 0, 1, timedelta(seconds=1))
    with pytest.raises(ValueError, match="not an address that this machine knows"):
        serve_store("no such host", 0, 1, timedelta(seconds=1))
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        with pytest.raises(ValueError, match="a port that is free"):
            serve_store("127.0.0.1", taken.getsockname()[1], 1, timedelta(seconds=1))


@pytest.mark.skipif(not hasattr(socket, "if_nameindex"), reason="no list of interfaces here")
def test_loopback_is_reached_by_loopback() -> None:
    assert interface_towards("127.0.0.1") in ("lo", "lo0")
    assert interface_towards("no such host") is None
