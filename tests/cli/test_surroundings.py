"""Proxies and certificates in the environment do not keep the app from its own page."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import certifi
import httpx
import pytest
from support.app_runner import running_app
from support.page_server import running_server

from wanvae_app.cli.surroundings import mend_surroundings

NOWHERE = "127.0.0.1:9"  # nobody listens on the port for discarding


@pytest.fixture
def own_page(tmp_path: Path) -> Iterator[str]:
    with running_server(tmp_path) as server:
        yield server.url


def mended(**variables: str) -> tuple[dict[str, str], list[str]]:
    return variables, mend_surroundings("10.0.0.7", variables)


def test_loopback_is_asked_directly(own_page: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("http_proxy", "https_proxy", "all_proxy", "no_proxy"):
        for spelling in (name, name.upper()):
            monkeypatch.delenv(spelling, raising=False)
    for variables in (
        {"HTTP_PROXY": f"http://{NOWHERE}"},
        {"http_proxy": NOWHERE, "no_proxy": ""},
        {"ALL_PROXY": f"socks5://{NOWHERE}"},
        {"all_proxy": f"nonsense://{NOWHERE}"},
        {"HTTPS_PROXY": f"http://{NOWHERE}", "HTTP_PROXY": "http://a:b:c", "NO_PROXY": "example.org"},
        {"SSL_CERT_FILE": "/nowhere/certificates.pem"},
        {"SSL_CERT_DIR": "/nowhere"},
    ):
        mend_surroundings("127.0.0.1", variables)
        with monkeypatch.context() as patch:
            for name, value in variables.items():
                patch.setenv(name, value)
            for host in ("127.0.0.1", "localhost"):
                url = own_page.replace("127.0.0.1", host).rstrip("/")
                assert httpx.get(f"{url}/health").status_code == 200, variables


def test_what_is_of_use_stays(tmp_path: Path) -> None:
    proxy = f"http://ann:secret@{NOWHERE}"
    variables, warnings = mended(
        HTTPS_PROXY=proxy, NO_PROXY="a.example, localhost", SSL_CERT_FILE=certifi.where()
    )
    assert (
        not warnings and variables["HTTPS_PROXY"] == proxy and variables["SSL_CERT_FILE"] == certifi.where()
    )
    assert variables["no_proxy"] == variables["NO_PROXY"] == "a.example,localhost,127.0.0.1,::1,10.0.0.7"
    assert mended() == ({}, [])


def test_what_is_taken_out_is_said_without_passwords(tmp_path: Path) -> None:
    variables, warnings = mended(
        ALL_PROXY=f"nonsense://ann:secret@{NOWHERE}", SSL_CERT_FILE=str(tmp_path / "gone")
    )
    assert "ALL_PROXY" not in variables and "SSL_CERT_FILE" not in variables
    assert len(warnings) == 2 and "secret" not in "".join(warnings)
    assert warnings[0].startswith(f"SSL_CERT_FILE={tmp_path / 'gone'} is ignored (it is not there)")
    (tmp_path / "text.pem").write_text("hello")
    assert "holds no certificates" in mended(SSL_CERT_FILE=str(tmp_path / "text.pem"))[1][0]


def test_the_app_starts(tmp_path: Path) -> None:
    surroundings = {
        "ALL_PROXY": f"socks5://{NOWHERE}",
        "HTTP_PROXY": f"http://{NOWHERE}",
        "NO_PROXY": "",
        "no_proxy": "",
        "SSL_CERT_FILE": str(tmp_path / "gone.pem"),
    }
    with running_app(tmp_path / "log", num_ranks=1, environment=surroundings) as app:
        app.wait_log("Ready: ")
        assert "SSL_CERT_FILE=" in app.log() and "Traceback" not in app.log()
