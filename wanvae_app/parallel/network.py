"""Which of this machine's addresses the ranks' connections use: no more than reach the other ranks."""

from __future__ import annotations

import ipaddress
import socket
import struct
import sys
from datetime import timedelta

from torch._C._distributed_c10d import TCPStore  # torch.distributed does not declare it

SIOCGIFADDR = 0x8915  # Linux: asks for an interface's IPv4 address


def serve_store(
    host: str, port: int, size: int, timeout: timedelta, wait_for_workers: bool = False
) -> TCPStore:
    """Open the store that ranks meet at, listening on `host` alone; PyTorch by itself listens on every address.

    With port 0 the system chooses one; see the store's `port`. `size` is the number of clients that the store waits
    for, if it does wait. Raises ValueError, in one sentence, if `host` is not an address of this machine or the port is
    taken.
    """
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        listener = socket.socket(family, kind, protocol)
    except OSError as error:
        raise ValueError(f"{host} is not an address that this machine knows ({error.strerror}).") from error
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(address)
        listener.listen(1024)
        port = listener.getsockname()[1]
    except OSError as error:
        listener.close()
        raise ValueError(
            f"The ranks' store cannot listen on {host}, port {port} ({error.strerror}); "
            "give an address of this machine, and a port that is free."
        ) from error
    # The store owns the descriptor from here on.
    return TCPStore(
        host,
        port,
        size,
        is_master=True,
        timeout=timeout,
        wait_for_workers=wait_for_workers,
        multi_tenant=True,
        master_listen_fd=listener.detach(),
    )


def interface_towards(host: str) -> str | None:
    """Return the network interface from which this machine reaches `host`; None where the system does not say.

    For a loopback address that is the loopback interface.
    """
    address = _address_towards(host)
    if address is None:
        return None
    if ipaddress.ip_address(address).is_loopback:
        return "lo0" if sys.platform == "darwin" else "lo"
    if sys.platform != "linux":
        return None
    import fcntl  # POSIX only

    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as asker:
        for _, name in socket.if_nameindex():
            request = struct.pack("256s", name.encode()[:15])
            try:
                reply = fcntl.ioctl(asker.fileno(), SIOCGIFADDR, request)
            except OSError:  # an interface without an IPv4 address
                continue
            if socket.inet_ntoa(reply[20:24]) == address:
                return name
    return None


def _address_towards(host: str) -> str | None:
    """This machine's own IPv4 address on the way to `host`. Nothing is sent."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        try:
            probe.connect((host, 9))  # any port
        except OSError:  # unknown, or reached by IPv6 alone
            return None
        address: str = probe.getsockname()[0]
        return address
