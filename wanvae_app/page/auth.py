"""Visitors: who is asking. A cookie names the browser, so that everybody finds, and can stop, only their own runs."""

from __future__ import annotations

import re
import secrets

import gradio as gr
from starlette.datastructures import MutableHeaders
from starlette.requests import Request
from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

COOKIE = "wanvae"
SESSION = "session "  # no cookie of ours begins like this
# What the page needs to ask for the password, and the app's health; none of it tells anything of anybody.
OPEN = re.compile(
    r"/|/(login|logout|health|favicon\.ico|theme\.css|robots\.txt|manifest\.json|pwa_icon)(/.*)?"
    r"|/(static|assets|svelte)/.*|/gradio_api/(login_check|theme\.css|startup-events)/?"
)
YEAR = 365 * 24 * 3600
STREAMED = ("text/event-stream", "application/octet-stream")


def owner_of(request: gr.Request) -> str:
    """Who called a handler: the browser, or a program's session."""
    return request.cookies.get(COOKIE) or f"{SESSION}{request.session_hash}"


def may_see(request: Request, owner: str) -> bool:
    """Whether this request may watch and stop the owner's runs. A program keeps no cookie: whoever knows the id
    of its run, which cannot be guessed, may have it."""
    shown = request.cookies.get(COOKIE, "")
    return owner.startswith(SESSION) or secrets.compare_digest(owner.encode(), shown.encode())


def may_enter(request: Request) -> bool:
    """Whether Gradio's own routes would let this request in: routes of one's own are not covered by `auth`."""
    app = request.app
    if getattr(app, "auth", None) is None:
        return True
    names = (f"access-token-{app.cookie_id}", f"access-token-unsecure-{app.cookie_id}")
    return any(app.tokens.get(request.cookies.get(name)) is not None for name in names)


class VisitorMiddleware:
    """Lets nobody in without the password, where there is one; gives a browser its cookie with the page; asks
    proxies not to hold streamed answers back.

    Plain ASGI, because Starlette's BaseHTTPMiddleware hides a viewer's departure from the streams.
    """

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return

        request = Request(scope)
        path = scope["path"].removeprefix(scope.get("root_path", ""))
        if not OPEN.fullmatch(path) and not may_enter(request):  # Gradio's own check leaves some routes out
            await JSONResponse({"detail": "Log in first."}, 401)(scope, receive, send)
            return

        async def send_marked(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                kind = headers.get("content-type", "")
                if kind.startswith(STREAMED):
                    headers["X-Accel-Buffering"] = "no"
                if kind.startswith("text/html") and COOKIE not in request.cookies:
                    name = secrets.token_urlsafe(24)
                    headers.append(
                        "set-cookie", f"{COOKIE}={name}; Path=/; Max-Age={YEAR}; HttpOnly; SameSite=Lax"
                    )
            await send(message)

        await self.app(scope, receive, send_marked)
