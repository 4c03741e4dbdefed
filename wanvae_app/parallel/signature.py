"""Signed commands: by a key that the launcher hands to its ranks, they know what rank 0 has said."""

from __future__ import annotations

import hashlib
import hmac
import os

SECRET = "WANVAE_SECRET"  # environment variable with the key
DIGEST_LENGTH = 64  # characters of a SHA-256, in hexadecimal


def sign(text: str, key: str) -> str:
    """Return `text` behind its signature. `key` is the name under which it is told, so that it cannot be told again
    under another one."""
    return _digest(text, key) + text


def verify(signed: str, key: str) -> str | None:
    """Return the text that `sign` was given; None if somebody without the secret has written it."""
    digest, text = signed[:DIGEST_LENGTH], signed[DIGEST_LENGTH:]
    return text if hmac.compare_digest(digest.encode(), _digest(text, key).encode()) else None


def _digest(text: str, key: str) -> str:
    secret = os.environ.get(SECRET, "").encode()
    return hmac.new(secret, f"{key}\n{text}".encode(), hashlib.sha256).hexdigest()
