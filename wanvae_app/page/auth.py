"""Who is asking: a password for the whole app, and a cookie for each browser.

The cookie names a browser. Everybody finds and stops only runs of their own browser.
"""

from __future__ import annotations

import base64
import binascii
import re
import secrets
from typing import Any

import gradio as gr
from starlette.requests import Request
from starlette.responses import RedirectResponse, Response

from wanvae_app.page.hosts import is_own_address

COOKIE = "wanvae"
COOKIE_SECONDS = 365 * 24 * 3600
SESSION_PREFIX = "session "  # of owners that are programs; no cookie of ours begins like this
# Served without a login: what the login page is made of, and the app's health. None of it tells of any run.
PUBLIC_PATHS = re.compile(
    r"/|/(login|logout|health|favicon\.ico|theme\.css|robots\.txt|manifest\.json)/?"
    r"|/(static|assets|svelte)/.*|/gradio_api/(login_check|theme\.css|startup-events)/?"
)
PROGRAM_PATHS = re.compile("/vae/(decode|encode)")  # a program's password may come with the request itself
LOGIN_PREFIX = "access-token-"  # of Gradio's cookies


def owner_of(request: gr.Request) -> str:
    """The owner of runs that this call starts: the browser's cookie, or the session of a program."""
    return request.cookies.get(COOKIE) or f"{SESSION_PREFIX}{request.session_hash}"


def address_of(request: gr.Request | Request) -> str:
    """Return the address that a call comes from; "" for this machine's own, which may be a proxy's for all visitors."""
    address = request.client.host if request.client is not None else ""
    return "" if is_own_address(address) else address


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
    return any(app.tokens.get(request.cookies.get(name)) is not None for name in _login_names(app))


def sent_login(request: Request) -> tuple[str, str] | None:
    """Return user and password of HTTP's Basic authentication (RFC 7617); None if the request has none."""
    scheme, _, text = request.headers.get("authorization", "").partition(" ")
    if scheme.lower() != "basic":
        return None
    try:
        user, colon, password = base64.b64decode(text, validate=True).decode().partition(":")
    except (binascii.Error, UnicodeDecodeError):
        return None
    return (user, password) if colon else None


def is_password(request: Request, user: str, password: str) -> bool:
    """Whether `--auth` names this user with this password. Takes the same time for every wrong one."""
    found = False
    for known_user, known_password in request.app.auth.items():
        is_user = secrets.compare_digest(known_user.encode(), user.encode())
        found |= secrets.compare_digest(known_password.encode(), password.encode()) and is_user
    return found


def _login_names(app: Any) -> tuple[str, str]:
    """Return the names of Gradio's two cookies."""
    return f"{LOGIN_PREFIX}{app.cookie_id}", f"{LOGIN_PREFIX}unsecure-{app.cookie_id}"


def browser_cookie(name: str, is_secure: bool) -> str:
    """Return the header that gives a browser its cookie; a secure one travels by HTTPS alone."""
    secure = "; Secure" if is_secure else ""
    return f"{COOKIE}={name}; Path=/; Max-Age={COOKIE_SECONDS}; HttpOnly; SameSite=Lax{secure}"


def login_cookie(header: str, is_secure: bool) -> str:
    """Return a Set-Cookie header; one of Gradio's logins is not sent along by other sites' pages any more.

    Gradio gives two cookies: one for HTTPS, which it lets all sites send, and one that says nothing about both.
    """
    if not header.startswith(LOGIN_PREFIX):
        return header
    parts = [part.strip() for part in header.split(";")]
    kept = [part for part in parts if not part.lower().startswith("samesite") and part.lower() != "secure"]
    secure = is_secure or len(kept) < len(parts) and "secure" in (part.lower() for part in parts)
    return "; ".join([*kept, "SameSite=Lax", *(["Secure"] if secure else [])])


def log_out(request: Request) -> Response:
    """End this browser's login, and send it to the login page."""
    app = request.app
    response = RedirectResponse("./", 303)
    for name in _login_names(app):
        app.tokens.pop(request.cookies.get(name), None)
        response.delete_cookie(name, path="/", httponly=True, samesite="lax")
    return response
