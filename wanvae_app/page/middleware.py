"""What every request passes before it reaches a route, and every answer after.

HostMiddleware comes first: the host and the page that asks (hosts.py), and the headers and cookies of answers.
PageMiddleware comes last, just before the routes: the login (auth.py), the route (gradio_requests.py), and faults.
Gradio's own are between them; they would allow other pages to read what a server on a network answers.

Both are plain ASGI: Starlette's BaseHTTPMiddleware would not tell a stream that its viewer has left.
"""

from __future__ import annotations

import contextlib
import logging
import math
import secrets
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from typing import Any

from starlette.datastructures import MutableHeaders
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse
from starlette.routing import BaseRoute, Match
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from wanvae_app.errors import describe
from wanvae_app.page.auth import (
    COOKIE,
    PROGRAM_PATHS,
    PUBLIC_PATHS,
    browser_cookie,
    is_logged_in,
    is_password,
    login_cookie,
    sent_login,
)
from wanvae_app.page.gradio_requests import EVENTS, LOGIN_PATHS, answer_to, checked, is_served
from wanvae_app.page.hosts import AllowedHosts
from wanvae_app.page.logins import LoginThrottle
from wanvae_app.page.policy import POLICY, PageSender, policy
from wanvae_app.page.remote_body import drain

log = logging.getLogger(__name__)

STREAM_TYPES = ("text/event-stream", "application/octet-stream")
HEADERS = {
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
}


def host_lifespan(hosts: AllowedHosts) -> Callable[[Any], contextlib.AbstractAsyncContextManager[None]]:
    """Return a `lifespan` that puts a HostMiddleware around an app, before its first request."""

    @contextlib.asynccontextmanager
    async def lifespan(app: Any) -> AsyncIterator[None]:
        app.middleware_stack = HostMiddleware(app.middleware_stack, hosts)
        yield

    return lifespan


class HostMiddleware:
    """Refuses requests to a foreign name and of a foreign page, and sets the headers and cookies of all answers."""

    def __init__(self, app: ASGIApp, hosts: AllowedHosts) -> None:
        self.app = app
        self.hosts = hosts

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "websocket":  # there are none
            await send({"type": "websocket.close", "code": 1008})
            return
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        request = Request(scope)
        refusal = self.hosts.refusal(request.method, request.headers)

        async def send_completed(message: Message) -> None:
            if message["type"] == "http.response.start":
                _complete(MutableHeaders(scope=message), request, is_refusal=bool(refusal))
            await send(message)

        app = _refusal(403, refusal) if refusal else self.app
        await app(scope, receive, send_completed)


class PageMiddleware:
    """Refuses requests without a login, and those to what is not served; answers a fault in one sentence.

    `routes` are the page's own.
    """

    def __init__(self, app: ASGIApp, routes: Sequence[BaseRoute]) -> None:
        self.app = app
        self.routes = routes
        self.throttle = LoginThrottle()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        status = None  # of the answer, once it has begun

        async def send_noted(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
            await send(message)

        request = Request(scope, receive)
        path = _route_path(scope)
        if path == "/":
            send = PageSender(send, request.headers.get("host", "")).send
        try:
            self._check(request, path)
            if not self._is_own(scope, path):
                receive = await checked(request, path, receive)
            await self.app(scope, receive, send_noted)
            if path in LOGIN_PATHS and status == 200:
                self.throttle.forget(_address(request))
        except HTTPException as refusal:
            if PROGRAM_PATHS.fullmatch(path):
                await drain(request)
            await _refusal(refusal.status_code, refusal.detail, refusal.headers)(scope, receive, send)
        except Exception as error:
            if status is None:
                if (answer := answer_to(error, request.method, path)) is not None:
                    await _refusal(*answer)(scope, receive, send)
            elif EVENTS.fullmatch(path):
                log.info("%s ended: %s", path, describe(error))
                await send({"type": "http.response.body", "body": b""})
            else:
                raise  # cuts the answer off, so that its reader notices

    def _check(self, request: Request, path: str) -> None:
        """Raise HTTPException for a request without a login, and for too many attempts to log in."""
        # Gradio's own check leaves out some of its routes.
        if not PUBLIC_PATHS.fullmatch(path) and not is_logged_in(request):
            login = sent_login(request) if PROGRAM_PATHS.fullmatch(path) else None
            if login is None:
                raise HTTPException(401, "Log in first.")
            self._count_attempt(request)
            if not is_password(request, *login):
                raise HTTPException(401, "The user or the password is wrong.")
            self.throttle.forget(_address(request))
        if path in LOGIN_PATHS and request.method == "POST":
            self._count_attempt(request)

    def _count_attempt(self, request: Request) -> None:
        """Raise HTTPException 429 if there were too many attempts to log in."""
        seconds = math.ceil(self.throttle.attempt(_address(request)))
        if seconds:
            sentence = f"Too many attempts to log in from your address: try again in {seconds} s."
            raise HTTPException(429, sentence, {"Retry-After": str(seconds)})

    def _is_own(self, scope: Scope, path: str) -> bool:
        """Whether one of the page's own routes takes the request.

        Raises HTTPException if none does and it is none of Gradio's that are served.
        """
        matches = {route.matches(scope)[0] for route in self.routes}
        if Match.FULL in matches:
            return True
        if Match.PARTIAL in matches:
            raise HTTPException(405, f"{scope['method']} does nothing here.")
        if not is_served(scope["method"], path):
            raise HTTPException(404, "There is no such page.")
        return False


def _route_path(scope: Scope) -> str:
    """Return the path that routes are compared with: without the sub-path that GRADIO_ROOT_PATH names, as Starlette
    does."""
    path: str = scope["path"]
    sub_path = scope.get("root_path", "")
    return path[len(sub_path) :] if path.startswith(f"{sub_path}/") else path


def _refusal(status: int, sentence: str, headers: Mapping[str, str] | None = None) -> JSONResponse:
    return JSONResponse({"detail": sentence}, status, headers)


def _complete(headers: MutableHeaders, request: Request, is_refusal: bool) -> None:
    is_secure = request.url.scheme == "https"
    for name, value in HEADERS.items():
        headers[name] = value
    headers.setdefault(POLICY, policy(None if is_refusal else request.headers.get("host", "")))
    content_type = headers.get("content-type", "")
    if content_type.startswith(STREAM_TYPES):
        headers["X-Accel-Buffering"] = "no"
    cookies = [login_cookie(cookie, is_secure) for cookie in headers.getlist("set-cookie")]
    if content_type.startswith("text/html") and COOKIE not in request.cookies:
        cookies.append(browser_cookie(secrets.token_urlsafe(24), is_secure))
    del headers["set-cookie"]
    for cookie in cookies:
        headers.append("set-cookie", cookie)


def _address(request: Request) -> str:
    """Return the address that a request comes from; a proxy on this machine names it."""
    return request.client.host if request.client is not None else ""
