"""Visitors: who is asking. A cookie names the browser, so that everybody finds, and can stop, only their own runs."""

from __future__ import annotations

import secrets

from starlette.datastructures import MutableHeaders
from starlette.requests import Request
from starlette.types import ASGIApp, Message, Receive, Scope, Send

COOKIE = "wanvae"
YEAR = 365 * 24 * 3600
STREAMED = ("text/event-stream", "application/octet-stream")


def owner_of(request: Request) -> str:
    """The browser's name; empty for a client without cookies, whose runs only their id protects."""
    return request.cookies.get(COOKIE, "")


def may_enter(request: Request) -> bool:
    """Whether Gradio's own routes would let this request in: routes of one's own are not covered by `auth`."""
    app = request.app
    if getattr(app, "auth", None) is None:
        return True
    names = (f"access-token-{app.cookie_id}", f"access-token-unsecure-{app.cookie_id}")
    return any(app.tokens.get(request.cookies.get(name)) is not None for name in names)


class VisitorMiddleware:
    """Gives a browser its cookie with the page, and asks proxies not to hold streamed answers back.

    Plain ASGI, because Starlette's BaseHTTPMiddleware hides a viewer's departure from the streams.
    """

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return

        async def send_marked(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                kind = headers.get("content-type", "")
                if kind.startswith(STREAMED):
                    headers["X-Accel-Buffering"] = "no"
                if kind.startswith("text/html") and COOKIE not in Request(scope).cookies:
                    name = secrets.token_urlsafe(24)
                    headers.append(
                        "set-cookie", f"{COOKIE}={name}; Path=/; Max-Age={YEAR}; HttpOnly; SameSite=Lax"
                    )
            await send(message)

        await self.app(scope, receive, send_marked)
