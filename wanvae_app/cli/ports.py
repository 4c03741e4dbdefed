"""Ports: whether the page can listen on one, and one that is free."""

from __future__ import annotations

import random
import socket

# Below 32768, where Linux begins to give ports to outgoing connections: this app's own connections take none of these.
FREE_PORTS = range(10000, 32768)
MAX_TRIES = 1000


def check_port(host: str, port: int) -> None:
    """Raise ValueError unless a server can listen on this port of `host`."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except (OSError, OverflowError) as error:
            reason = getattr(error, "strerror", None) or error
            raise ValueError(
                f"--host {host} --port {port}: cannot listen there ({reason}); try another."
            ) from error


def free_port() -> int:
    """A port of 127.0.0.1 that is free now, drawn at random from FREE_PORTS. Raises OSError if none is found."""
    for port in random.sample(FREE_PORTS, MAX_TRIES):
        with socket.socket() as probe:
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
            return port
    raise OSError("none of a thousand ports from 10000 to 32767 is free")
