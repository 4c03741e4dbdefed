"""What of Gradio is served, and what a malformed request gets: a refusal in one sentence, no traceback."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from io import BytesIO

import numpy as np
import pytest
from support.page_server import HIDDEN, Server, running_server, sentence
from support.tiny import some_latent


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with running_server(tmp_path_factory.mktemp("server")) as server:
        yield server


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


def test_the_api_is_shown_by_an_example_that_works(server: Server) -> None:
    """An upload: an address, as in Gradio's own examples, is refused."""
    described = server.visitor.get("/gradio_api/info").json()["named_endpoints"]["/run"]
    file, *_ = described["parameters"]
    assert file["parameter_name"] == "file" and file["example_input"]["path"] == "latent.safetensors"
    assert "http" not in str(file["example_input"])


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


META = {"_type": "gradio.FileData"}
GONE = "The uploaded file is no longer on the server; upload it again."
NOT_UNDERSTOOD = "The request could not be understood: gradio_api/info says what can be called, and how."


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        ([{"path": "/tmp/gradio/0123/clip.npy", "meta": META}, True, 1, "Auto"], GONE),  # after a restart
        ([{"path": "/etc/hostname", "meta": META}, True, 1, "Auto"], GONE),
        ([{"path": "a\0", "meta": META}, True, 1, "Auto"], NOT_UNDERSTOOD),
        ([{"path": "x" * 5000, "meta": META}, True, 1, "Auto"], NOT_UNDERSTOOD),
        ([{"path": 5}, True, 1, "Auto"], NOT_UNDERSTOOD),
        ([5, True, 1, "Auto"], NOT_UNDERSTOOD),
        ([], NOT_UNDERSTOOD),
        ([None, "x", "y", "Auto"], NOT_UNDERSTOOD),
        ([None, True, 1, {"b": 2}], "is not in the list of choices"),
    ],
)
def test_malformed_inputs_end_in_a_sentence(
    server: Server,
    data: list[object],
    expected: str,
    caplog: pytest.LogCaptureFixture,
    capfd: pytest.CaptureFixture[str],
) -> None:
    call = server.visitor.post(CALL, json={"data": data})
    answer = server.visitor.get(f"{CALL}/{call.json()['event_id']}").text
    assert "event: error" in answer and expected in answer
    said = answer + caplog.text + "".join(capfd.readouterr())
    assert "Traceback" not in said and "/tmp/" not in answer and "/etc/" not in answer, said


def test_a_click_on_no_sample_ends_in_a_sentence(server: Server, capfd: pytest.CaptureFixture[str]) -> None:
    (index,) = [i for i, function in server.page.fns.items() if function.name == "choose_sample"]
    for event_data in (None, 5, {}, {"index": "0"}, {"index": 1.5}):
        body = {"data": [], "fn_index": index, "session_hash": "click", "event_data": event_data}
        assert server.visitor.post("/gradio_api/queue/join", json=body).status_code == 200
        answer = server.visitor.get("/gradio_api/queue/data?session_hash=click").text
        assert "Click one of the samples to choose it." in answer
    assert "Traceback" not in "".join(capfd.readouterr())
