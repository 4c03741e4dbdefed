"""WebSocket: as much of RFC 6455 as a test needs that talks to a browser on this machine. Texts only."""

from __future__ import annotations

import base64
import os
import socket
import struct
from urllib.parse import urlsplit

TEXT, CLOSE, PING, PONG = 0x1, 0x8, 0x9, 0xA
FINAL = 0x80  # in the first byte: the last frame of a message
MASKED = 0x80  # in the second byte, as all frames of a client are
LONG, LONGER = 126, 127  # in place of a length: it follows in 2 or 8 bytes


class WebSocket:
    """A connection to a server without TLS. Raises OSError if it ends, or is silent for `timeout` seconds."""

    def __init__(self, url: str, timeout: float) -> None:
        parts = urlsplit(url)
        assert parts.scheme == "ws" and parts.hostname is not None and parts.port is not None, url
        self._socket = socket.create_connection((parts.hostname, parts.port), timeout)
        self._reader = self._socket.makefile("rb")
        key = base64.b64encode(os.urandom(16)).decode()
        lines = [
            f"GET {parts.path} HTTP/1.1",
            f"Host: {parts.netloc}",
            "Upgrade: websocket",
            "Connection: Upgrade",
        ]
        lines += [f"Sec-WebSocket-Key: {key}", "Sec-WebSocket-Version: 13", "", ""]
        self._socket.sendall("\r\n".join(lines).encode())
        status = self._reader.readline()
        if b" 101 " not in status:
            raise OSError(f"{url} is no WebSocket: {status!r}")
        while self._reader.readline().strip():
            pass  # the other headers

    def send(self, text: str) -> None:
        """Send a text."""
        self._send(TEXT, text.encode())

    def receive(self) -> str:
        """Wait for a text."""
        message = b""
        while True:
            first, second = self._read(2)
            length = second & ~MASKED
            if length == LONG:
                (length,) = struct.unpack("!H", self._read(2))
            elif length == LONGER:
                (length,) = struct.unpack("!Q", self._read(8))
            data, kind = self._read(length), first & 0xF
            if kind == CLOSE:
                raise OSError("the WebSocket was closed")
            if kind == PING:
                self._send(PONG, data)
            elif kind != PONG:
                message += data
                if first & FINAL:
                    return message.decode()

    def close(self) -> None:
        """End the connection."""
        self._reader.close()
        self._socket.close()

    def _send(self, kind: int, data: bytes) -> None:
        mask = os.urandom(4)
        length = len(data)
        if length < LONG:
            header = struct.pack("!BB", FINAL | kind, MASKED | length)
        elif length < 2**16:
            header = struct.pack("!BBH", FINAL | kind, MASKED | LONG, length)
        else:
            header = struct.pack("!BBQ", FINAL | kind, MASKED | LONGER, length)
        self._socket.sendall(header + mask + bytes(byte ^ mask[i % 4] for i, byte in enumerate(data)))

    def _read(self, length: int) -> bytes:
        data = self._reader.read(length)
        if len(data) < length:
            raise OSError("the WebSocket has ended")
        return data
