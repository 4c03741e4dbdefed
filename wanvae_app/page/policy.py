"""The content security policy: what a browser may load and run for this page, and who may frame it.

An inline script runs only if its hash is in the policy: Gradio's own, which are known when its page is made. So markup
that came from a file's name or an error would run nothing. Gradio makes functions of texts (`unsafe-eval`), and the
player's clock is a worker made of a text.
"""

from __future__ import annotations

import base64
import hashlib
import re
from collections.abc import Iterable

from starlette.datastructures import MutableHeaders
from starlette.types import Message, Send

from wanvae_app.page.hosts import frame_ancestors
from wanvae_app.page.scripts import head

POLICY = "Content-Security-Policy"
INLINE_SCRIPT = re.compile(rb"<script\b[^>]*>(.*?)</script>", re.DOTALL | re.IGNORECASE)


def policy(host: str | None, hashes: Iterable[str] = ()) -> str:
    """Return the policy for an answer to a request with this `Host`; None: a refused one, which nobody may frame.

    `hashes` are those of the inline scripts that may run, see `script_hashes`.
    """
    scripts = " ".join(["'self'", "'unsafe-eval'", *hashes])
    ancestors = "'none'" if host is None else frame_ancestors(host)
    return (
        f"default-src 'self'; script-src {scripts}; style-src 'self' 'unsafe-inline'; "
        "img-src 'self' data: blob:; media-src 'self' data: blob:; font-src 'self' data:; "
        "connect-src 'self' data: blob:; worker-src 'self' blob:; frame-src 'none'; object-src 'none'; "
        f"base-uri 'self'; form-action 'self'; frame-ancestors {ancestors}"
    )


def script_hashes(html: bytes) -> list[str]:
    """Return the hashes of the inline scripts in a page, as a policy names them."""
    texts = filter(None, INLINE_SCRIPT.findall(html))
    return [f"'sha256-{base64.b64encode(hashlib.sha256(text).digest()).decode()}'" for text in texts]


class PageSender:
    """Sends a page with a policy that allows its scripts, and the one that Gradio inserts into its head later."""

    def __init__(self, send: Send, host: str) -> None:
        self._send = send
        self._host = host
        self._start: Message | None = None
        self._parts: list[bytes] = []

    async def send(self, message: Message) -> None:
        """Hold the page's beginning back until all of it is there."""
        if message["type"] == "http.response.start":
            self._start = message
            return
        self._parts.append(message.get("body", b""))
        if message.get("more_body"):
            return
        assert self._start is not None, "a body came before its headers"
        page = b"".join(self._parts)
        hashes = script_hashes(page + head().encode())
        MutableHeaders(scope=self._start)[POLICY] = policy(self._host, hashes)
        await self._send(self._start)
        await self._send({**message, "body": page})
