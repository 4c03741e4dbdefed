"""Cookies, attempts to log in, and the end of a login."""

from __future__ import annotations

import re
from collections.abc import Iterator

import httpx
import pytest
from support.page_server import AUTH, Server, running_server, sentence

from wanvae_app.page.logins import ATTEMPT_SECONDS, MAX_ADDRESSES, MAX_ATTEMPTS, LoginThrottle


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with running_server(tmp_path_factory.mktemp("server")) as server:
        yield server


def test_cookies_are_kept_from_scripts_and_from_other_sites(server: Server) -> None:
    with httpx.Client(base_url=server.url) as client:
        cookies = client.get("/").headers.get_list("set-cookie")
        login = client.post("/login", data={"username": AUTH[0], "password": AUTH[1]})
        cookies += login.headers.get_list("set-cookie")
        assert len(cookies) == 3
        assert all("HttpOnly" in cookie and cookie.count("SameSite=Lax") == 1 for cookie in cookies), cookies
        assert not any("samesite=none" in cookie.lower() for cookie in cookies)
        proxied = client.get("/", headers={"X-Forwarded-Proto": "https", "Cookie": ""})
        assert proxied.headers["set-cookie"].endswith("; Secure")


def test_a_browser_is_logged_out_by_post_alone(server: Server) -> None:
    with httpx.Client(base_url=server.url) as client:
        client.post("/login", data={"username": AUTH[0], "password": AUTH[1]})
        answer = client.get("/logout")
        assert answer.status_code == 405 and sentence(answer)
        assert client.get("/gradio_api/info").status_code == 200
        assert client.post("/logout").status_code == 303
        assert client.get("/gradio_api/info").status_code == 401
    assert server.visitor.get("/gradio_api/info").status_code == 200, "another browser's login"


def test_attempts_to_log_in_are_counted(server: Server) -> None:
    def attempt(address: str, password: str = "guess") -> httpx.Response:
        with httpx.Client(base_url=server.url) as client:
            data = {"username": AUTH[0], "password": password}
            return client.post("/login", data=data, headers={"X-Forwarded-For": address})

    assert [attempt("10.0.0.7").status_code for _ in range(MAX_ATTEMPTS)] == [400] * MAX_ATTEMPTS
    for password in ("guess", AUTH[1]):
        answer = attempt("10.0.0.7", password)
        assert answer.status_code == 429 and re.search(r"try again in (29|30) s\.", sentence(answer))
        assert answer.headers["retry-after"] in ("29", "30")
    assert attempt("10.0.0.8", AUTH[1]).status_code == 200, "another address"


def test_attempts_come_back_with_time_and_with_the_password() -> None:
    now = 0.0
    throttle = LoginThrottle(lambda: now)
    assert [throttle.attempt("10.0.0.7") for _ in range(MAX_ATTEMPTS)] == [0.0] * MAX_ATTEMPTS
    assert throttle.attempt("::ffff:10.0.0.7") == ATTEMPT_SECONDS
    now += ATTEMPT_SECONDS
    assert throttle.attempt("10.0.0.7") == 0.0 and throttle.attempt("10.0.0.7") == ATTEMPT_SECONDS
    throttle.forget("10.0.0.7")
    assert throttle.attempt("10.0.0.7") == 0.0
    for last in range(MAX_ATTEMPTS):
        assert throttle.attempt(f"2001:db8::{last}") == 0.0
    assert throttle.attempt("2001:db8::beef") > 0.0, "of the same network"
    assert throttle.attempt("2001:db8:1::") == 0.0
    for number in range(MAX_ADDRESSES + 10):
        throttle.attempt(f"10.{number >> 16}.{number >> 8 & 255}.{number & 255}")
    assert len(throttle._free) == MAX_ADDRESSES
