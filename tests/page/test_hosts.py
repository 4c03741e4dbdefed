"""Under which names the server answers, and to whose pages; what its answers let a browser do."""

from __future__ import annotations

import re
from collections.abc import Iterator

import pytest
from support.page_server import Server, running_server, sentence

from wanvae_app.cli.options import split_authority
from wanvae_app.page.hosts import AllowedHosts, frame_ancestors


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with running_server(tmp_path_factory.mktemp("server")) as server:
        yield server


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
                "frame-ancestors 'self' http://localhost:* https://localhost:* http://127.0.0.1:* https://127.0.0.1:* "
                "vscode-webview: vscode-file:"
            )


def test_notebooks_of_the_same_machine_may_frame_the_page() -> None:
    assert frame_ancestors("box.lan:7860") == "'self' http://box.lan:* https://box.lan:*"
    assert frame_ancestors("[2001:db8::1]:7860") == "'self'"
    assert "http://localhost:*" in frame_ancestors("127.0.0.1:7860").split()  # Jupyter's port is 8888
    assert frame_ancestors("[::1]:80") == frame_ancestors("localhost") == frame_ancestors("")


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
