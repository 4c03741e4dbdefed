"""Who is asking: a password for the whole app, and a cookie for each browser.

The cookie names a browser. Everybody finds and stops only runs of their own browser.
"""

from __future__ import annotations

import re
import secrets

import gradio as gr
from starlette.datastructures import MutableHeaders
from starlette.requests import Request
from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

COOKIE = "wanvae"
COOKIE_SECONDS = 365 * 24 * 3600
SESSION_PREFIX = "session "  # of owners that are programs; no cookie of ours begins like this
# Served without a login: what the login page is made of, and the app's health. None of it tells of any run.
PUBLIC_PATHS = re.compile(
    r"/|/(login|logout|health|favicon\.ico|theme\.css|robots\.txt|manifest\.json|pwa_icon)(/.*)?"
    r"|/(static|assets|svelte)/.*|/gradio_api/(login_check|theme\.css|startup-events)/?"
)
STREAM_TYPES = ("text/event-stream", "application/octet-stream")


def owner_of(request: gr.Request) -> str:
    """The owner of runs that this call starts: the browser's cookie, or the session of a program."""
    return request.cookies.get(COOKIE) or f"{SESSION_PREFIX}{request.session_hash}"


def may_use(request: Request, owner: str) -> bool:
    """Whether this request may watch and stop the owner's runs.

    A program keeps no cookie, so its runs are open to whoever knows their id, which cannot be guessed.
    """
    cookie = request.cookies.get(COOKIE, "")
    return owner.startswith(SESSION_PREFIX) or secrets.compare_digest(owner.encode(), cookie.encode())


def is_logged_in(request: Request) -> bool:
    """Whether the request carries a login, or needs none. Gradio's `auth` checks only routes of its own."""
    app = request.app
    if getattr(app, "auth", None) is None:
        return True
    names = (f"access-token-{app.cookie_id}", f"access-token-unsecure-{app.cookie_id}")
    return any(app.tokens.get(request.cookies.get(name)) is not None for name in names)


class PageMiddleware:
    """Refuses requests without a login, gives each browser its cookie, and tells proxies not to buffer streams.

    This is plain ASGI: Starlette's BaseHTTPMiddleware would not tell a stream that its viewer has left.
    """

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return

        request = Request(scope)
        path = scope["path"].removeprefix(scope.get("root_path", ""))
        # Gradio's own check leaves out some of its routes.
        if not PUBLIC_PATHS.fullmatch(path) and not is_logged_in(request):
            await JSONResponse({"detail": "Log in first."}, 401)(scope, receive, send)
            return

        async def send_with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                content_type = headers.get("content-type", "")
                if content_type.startswith(STREAM_TYPES):
                    headers["X-Accel-Buffering"] = "no"
                if content_type.startswith("text/html") and COOKIE not in request.cookies:
                    name = secrets.token_urlsafe(24)
                    headers.append(
                        "set-cookie",
                        f"{COOKIE}={name}; Path=/; Max-Age={COOKIE_SECONDS}; HttpOnly; SameSite=Lax",
                    )
            await send(message)

        await self.app(scope, receive, send_with_headers)
