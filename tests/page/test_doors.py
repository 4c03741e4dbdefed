"""What another page, another name, a stranger's tool and a malformed request get: one sentence, and nothing else."""

from __future__ import annotations

import logging
import re
from collections.abc import Iterator
from io import BytesIO

import httpx
import numpy as np
import pytest
from support.page_server import AUTH, HIDDEN, Server, running_server
from support.tiny import some_latent

from wanvae_app.cli.options import split_authority
from wanvae_app.page.hosts import AllowedHosts, frame_ancestors
from wanvae_app.page.logins import ATTEMPT_SECONDS, MAX_ADDRESSES, MAX_ATTEMPTS, LoginThrottle


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with running_server(tmp_path_factory.mktemp("server")) as server:
        yield server


def sentence(answer: httpx.Response) -> str:
    """The one sentence of a refusal. AssertionError if there is more, or anything of the program."""
    text = answer.json()["detail"]
    assert re.fullmatch(r"[A-Z][^\n]{5,200}\.", text) and text.count(". ") == 0, text
    assert "Traceback" not in text and "/site-packages/" not in text
    return text


# Hosts and pages


def refused(hosts: AllowedHosts, method: str = "GET", **headers: str) -> bool:
    return bool(hosts.refusal(method, {name.replace("_", "-"): value for name, value in headers.items()}))


@pytest.mark.parametrize(
    ("bound", "names", "served", "not_served"),
    [
        (
            "127.0.0.1",
            [],
            ["localhost", "LOCALHOST:7860", "127.0.0.1:1", "127.3.4.5", "[::1]:7860", "localhost.", ""],
            [
                "evil.example",
                "10.0.0.7:7860",
                "localhost.evil.example",
                "127.0.0.1.evil.example",
                "[fe80::1]",
                "a b",
                "@",
                "localhost:0x50",
                "localhost:99999",
                "evil@localhost",
                "localhost/../",
                "2130706433",
                "0.0.0.0",
                "[::ffff:10.0.0.7]",
            ],
        ),
        ("0.0.0.0", [], ["10.0.0.7:7860", "[fe80::1]:80", "localhost", "0.0.0.0"], ["evil.example", "box.lan"]),
        ("::", [], ["10.0.0.7:7860", "[2001:db8::1]"], ["evil.example"]),
        ("10.0.0.7", [], ["10.0.0.7:7860", "127.0.0.1"], ["10.0.0.8", "evil.example"]),
        ("localhost", [], ["127.0.0.1", "localhost"], ["evil.example"]),
        ("127.0.0.1", ["box.example.org", "10.0.0.7"], ["BOX.example.org:443", "10.0.0.7"], ["example.org"]),
    ],
)  # fmt: skip
def test_only_the_names_of_this_server_are_answered(
    bound: str, names: list[str], served: list[str], not_served: list[str]
) -> None:
    hosts = AllowedHosts(bound, names)
    assert not [host for host in served if refused(hosts, host=host)]
    assert not [host for host in not_served if not refused(hosts, host=host)]


def test_only_the_servers_own_pages_are_answered() -> None:
    hosts = AllowedHosts("127.0.0.1", ["box.example.org", "other.example.org:8443"])
    here = "127.0.0.1:7860"
    for origin in ("http://127.0.0.1:7860", "https://box.example.org", "http://other.example.org:8443"):
        assert not refused(hosts, "POST", host=here, origin=origin), origin
    for origin in (
        "http://127.0.0.1:8888",
        "http://localhost:7860",
        "http://evil.example",
        "https://box.example.org:8443",
        "https://other.example.org",
        "null",
        "",
        "file://",
        "http://127.0.0.1:7860.evil.example",
        "http://127.0.0.1:7860@evil.example",
        "chrome-extension://abcdef",
    ):
        assert refused(hosts, "GET", host=here, origin=origin), origin
    assert not refused(hosts, "POST", host="box.example.org", origin="https://box.example.org")
    assert not refused(hosts, "POST", host="127.0.0.1", origin="http://127.0.0.1:80")


def test_a_browser_that_sends_no_origin_says_whose_page_asks() -> None:
    hosts, here = AllowedHosts(), "127.0.0.1:7860"
    for site in ("cross-site", "same-site"):
        assert refused(hosts, "GET", host=here, sec_fetch_site=site, sec_fetch_mode="no-cors")
        assert refused(hosts, "POST", host=here, sec_fetch_site=site, sec_fetch_mode="navigate")
        assert not refused(hosts, "GET", host=here, sec_fetch_site=site, sec_fetch_mode="navigate")
    for site in ("same-origin", "none"):
        assert not refused(hosts, "GET", host=here, sec_fetch_site=site, sec_fetch_mode="no-cors")


@pytest.mark.parametrize("path", ["/", "/health", "/config", "/gradio_api/info", "/page/main.js", "/nowhere"])
def test_another_name_and_another_page_read_nothing(server: Server, path: str) -> None:
    run = server.finish()
    for where in (path, f"/live/{run.id}/state", f"/live/{run.id}"):
        for headers in (
            {"Host": "evil.example"},
            {"Origin": "http://evil.example"},
            {"Origin": "null"},
            {"Host": "evil.example:7860", "Origin": "http://evil.example:7860"},
            {"Sec-Fetch-Site": "cross-site", "Sec-Fetch-Mode": "no-cors"},
        ):
            answer = server.visitor.get(where, headers=headers)
            assert answer.status_code == 403 and sentence(answer), where
            assert not [name for name in answer.headers if name.startswith("access-control")], where
            assert "set-cookie" not in answer.headers


def test_another_page_writes_nothing(server: Server) -> None:
    run = server.finish()
    run.stop_requested = False
    file = {"files": ("clip.pt", b"x" * 100)}
    before = sorted(server.jobs.folder.parent.rglob("*"))
    for path in (f"/live/{run.id}/stop", "/gradio_api/upload", "/gradio_api/queue/join", "/login", "/logout"):
        for headers in ({"Origin": "https://evil.example"}, {"Host": "evil.example"}, {"Origin": "null"}):
            answer = server.visitor.post(path, headers=headers, files=file)
            assert answer.status_code == 403 and sentence(answer)
    preflight = {"Origin": "https://evil.example", "Access-Control-Request-Method": "POST"}
    answer = server.visitor.options("/gradio_api/upload", headers=preflight)
    assert answer.status_code == 403
    assert not [name for name in answer.headers if name.startswith("access-control")]
    assert not run.stop_requested and sorted(server.jobs.folder.parent.rglob("*")) == before
    assert server.visitor.get(f"/live/{run.id}/state").status_code == 200, "still logged in"


def test_the_servers_own_page_is_served(server: Server) -> None:
    own = {"Origin": server.url.rstrip("/"), "Sec-Fetch-Site": "same-origin"}
    assert server.visitor.get("/config", headers=own).status_code == 200
    uploaded = server.visitor.post("/gradio_api/upload", headers=own, files={"files": ("clip.pt", b"x")})
    assert uploaded.status_code == 200 and len(uploaded.json()) == 1


def test_a_run_knows_the_address_that_it_came_from(server: Server) -> None:
    """A proxy on this machine names it. Calls of the API without a cookie are told apart by nothing else."""
    headers = {"X-Forwarded-For": "10.0.0.7"}
    for told in (headers, {}):
        latent = BytesIO()
        np.save(latent, some_latent(1).numpy())
        files = {"files": ("clip.npy", latent.getvalue())}
        (path,) = server.visitor.post("/gradio_api/upload", files=files).json()
        file = {"path": path, "meta": {"_type": "gradio.FileData"}}
        call = server.visitor.post(
            "/gradio_api/call/run", json={"data": [file, True, 1, "Raw"]}, headers=told
        )
        answer = server.visitor.get(f"/gradio_api/call/run/{call.json()['event_id']}")
        assert "event: complete" in answer.text, answer.text
        assert server.jobs.runs()[-1].address == told.get("X-Forwarded-For", "")


# Headers


def test_every_answer_says_what_a_browser_may_do_with_it(server: Server) -> None:
    for path in ("/", "/health", "/page/main.js", "/theme.css", "/nowhere", "/gradio_api/info"):
        for client in (server.visitor, server.stranger):
            headers = client.get(path).headers
            assert headers["x-content-type-options"] == "nosniff"
            assert headers["referrer-policy"] == "same-origin"
            policy = headers["content-security-policy"]
            assert "default-src 'self'" in policy and "connect-src 'self' data: blob:" in policy
            scripts = re.search(r"script-src (.*?);", policy)
            assert scripts is not None and "unsafe-inline" not in scripts[1]
            assert ("'sha256-" in scripts[1]) == (path == "/")
            assert policy.endswith(
                "frame-ancestors 'self' http://localhost:* https://localhost:* http://127.0.0.1:* https://127.0.0.1:*"
            )


def test_notebooks_of_the_same_machine_may_frame_the_page() -> None:
    assert frame_ancestors("box.lan:7860") == "'self' http://box.lan:* https://box.lan:*"
    assert frame_ancestors("[2001:db8::1]:7860") == "'self'"
    assert frame_ancestors("[::1]:80") == frame_ancestors("localhost") == frame_ancestors("")


# Logins


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


# Requests for what is not there


def test_what_the_page_does_not_need_is_not_served(server: Server) -> None:
    for method, path in (
        ("POST", "/gradio_api/process_recording"),
        ("POST", "/gradio_api/component_server"),
        ("POST", "/gradio_api/vibe-edit"),
        ("GET", "/gradio_api/vibe-code"),
        ("GET", "/gradio_api/proxy=https://example.org"),
        ("GET", "/gradio_api/dev/reload"),
        ("GET", "/gradio_api/deep_link"),
        ("POST", "/gradio_api/stream/x"),
        ("GET", "/gradio_api/custom_component/1/2/3/4"),
        ("GET", "/gradio_api/runs"),
        ("GET", "/gradio_api/token"),
        ("POST", "/gradio_api/run/run"),
        ("POST", "/gradio_api/api/run"),
        ("GET", "/gradio_api/file/etc/passwd"),
        ("GET", "/gradio_api/openapi.json"),
        ("GET", "/monitoring"),
        ("GET", "/monitoring/summary"),
        ("GET", "/pwa_icon/100000"),
        ("DELETE", "/gradio_api/upload"),
        ("PUT", "/"),
        ("TRACE", "/"),
    ):
        answer = server.visitor.request(method, path, files={"file": ("a", HIDDEN)})
        assert answer.status_code in (404, 405) and sentence(answer), (method, path)


def join(index: object, **more: object) -> dict[str, object]:
    return {"json": {"data": [], "fn_index": index, "session_hash": "s", **more}}


MULTIPART = {"Content-Type": "multipart/form-data; boundary=x"}
PART = b'--x\r\nContent-Disposition: form-data; name="files"%s\r\n\r\nabc\r\n--x--\r\n'
CALL = "/gradio_api/call/run"
UPLOAD = "/gradio_api/upload"


@pytest.mark.parametrize(
    ("path", "request_arguments"),
    [
        ("/gradio_api/queue/join", join(999)),
        ("/gradio_api/queue/join", join(-1)),
        ("/gradio_api/queue/join", join(None)),
        ("/gradio_api/queue/join", join("0")),
        ("/gradio_api/queue/join", join(True)),
        ("/gradio_api/queue/join", join(10**400)),
        ("/gradio_api/queue/join", join([0])),
        ("/gradio_api/queue/join", {"json": [1]}),
        ("/gradio_api/queue/join", {"content": b"{"}),
        ("/gradio_api/queue/join", {"content": b"[" * 100_000}),
        ("/gradio_api/queue/join", {"content": b"\xff"}),
        (CALL, {"content": b"[" * 100_000}),
        (CALL, {"json": {"data": "x" * 2**21}}),
        ("/gradio_api/call/v2/run", {"json": {"nonsense": 1}}),
        ("/gradio_api/call/v2/run", {"json": []}),
        ("/gradio_api/call/other", {"json": {"data": []}}),
        ("/gradio_api/cancel", {"json": {"session_hash": "x", "fn_index": "y", "event_id": "y" * 100_000}}),
        ("/gradio_api/reset", {"content": b""}),
        ("/login", {"content": b"x" * 2**21}),
        (UPLOAD, {"content": PART % b"; filename*=utf-8''a", "headers": MULTIPART}),
        (UPLOAD + "?upload_id=u", {"content": PART % b"; filename*=utf-8''a", "headers": MULTIPART}),
        (UPLOAD + "?upload_id=u", {"content": PART % b"", "headers": MULTIPART}),
        (UPLOAD, {"content": PART % b"", "headers": MULTIPART}),
        (UPLOAD, {"content": b"garbage", "headers": MULTIPART}),
        (UPLOAD, {"content": b"", "headers": {"Content-Type": "multipart/form-data"}}),
        (UPLOAD, {"content": b"abc", "headers": {"Content-Type": "text/plain"}}),
        (UPLOAD, {"content": b"abc"}),
        (UPLOAD, {"content": PART % b'; filename=".."', "headers": MULTIPART}),
        (UPLOAD, {"content": b'--x\r\nContent-Disposition: form-data\r\n\r\n', "headers": MULTIPART}),
    ],
)  # fmt: skip
def test_a_malformed_request_ends_in_a_refusal(
    server: Server,
    path: str,
    request_arguments: dict[str, object],
    caplog: pytest.LogCaptureFixture,
    capfd: pytest.CaptureFixture[str],
) -> None:
    with caplog.at_level(logging.INFO):
        answer = server.visitor.post(path, **request_arguments)  # type: ignore[arg-type]
    assert 400 <= answer.status_code < 500, answer.text
    said = caplog.text + "".join(capfd.readouterr()) + answer.text
    assert "Traceback" not in said and "site-packages" not in said and len(answer.text) < 1000, said
    assert server.visitor.get("/health").status_code == 200


@pytest.mark.parametrize("path", ["/gradio_api/queue/data?session_hash=x", f"{CALL}/nothing"])
def test_events_of_nothing_end_in_an_event(
    server: Server, path: str, caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str]
) -> None:
    with caplog.at_level(logging.INFO):
        answer = server.visitor.get(path)
    assert answer.status_code in (200, 404) and "Traceback" not in caplog.text + capfd.readouterr().err
    if answer.status_code == 200:
        assert "unexpected_error" in answer.text or "event: error" in answer.text


@pytest.mark.parametrize("text", ["box", "box.lan:80", "[::1]:7860", "10.0.0.7", "BOX."])
def test_a_host_is_a_name_with_or_without_a_port(text: str) -> None:
    name, port = split_authority(text)
    assert name == text.lower().removesuffix(".").removesuffix(":80").removesuffix(":7860").strip("[]")
    assert port in (None, 80, 7860)


@pytest.mark.parametrize(
    "text", ["", ":80", "http://box", "box/", "a b", "box:", "box:0", "box:65536", "[::1", "*"]
)
def test_anything_else_is_no_host(text: str) -> None:
    with pytest.raises(ValueError, match="is not the name of a host: give for instance"):
        split_authority(text)
