"""A video that is being read, as the API and the page's routes see it: it is told, and Stop ends it at once."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from support.app_runner import wait_for
from support.page_server import Server, running_server
from support.video_files import pattern

from wanvae_app.page import upload as module


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with running_server(tmp_path_factory.mktemp("server")) as server:
        yield server


class SlowVideo:
    """Reads videos in the place of `read_video`: never to the end."""

    def __init__(self) -> None:
        self.ended = threading.Event()

    def __call__(
        self,
        *_: Any,
        on_progress: Callable[[int, int], None],
        stopped: Callable[[], bool],
        **__: Any,
    ) -> None:
        on_progress(3, 9)
        while not stopped():
            time.sleep(0.01)
        self.ended.set()
        raise InterruptedError("stopped")


def test_reading_is_told_and_stopped(server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    slow = SlowVideo()
    monkeypatch.setattr(module, "read_video", slow)
    path = pattern(tmp_path / "slow.mp4")
    given = server.visitor.post("/gradio_api/upload", files={"files": (path.name, path.read_bytes())}).json()[
        0
    ]
    answers: list[str] = []
    caller = threading.Thread(
        target=lambda: answers.append(server.call({"path": given, "meta": {"_type": "gradio.FileData"}}))
    )
    caller.start()

    def states() -> list[dict[str, Any]]:
        runs = [run for run in server.jobs.runs() if run.name == path.name]
        return [server.visitor.get(f"/live/{run.id}/state").json() for run in runs]

    wait_for(lambda: [state for state in states() if state.get("reading")], 20)
    (state,) = states()
    assert (state["state"], state["message"]) == ("queued", "Reading 3 of about 9 frames.")
    assert (state["num_frames"], state["width"], state["height"], state["source"]) == (9, 48, 32, False)

    monkeypatch.undo()
    entry = server.start()  # a small input, which is there at once
    wait_for(lambda: entry.run.ended, 20)
    assert entry.run.status == "finished" and states()[0]["reading"]

    start = time.monotonic()
    assert server.visitor.post(f"/live/{state['job']}/stop").status_code == 200
    assert states()[0]["state"] == "stopped" and slow.ended.wait(1) and time.monotonic() - start < 1
    caller.join(10)
    assert '"state": "stopped"' in answers[0]
    assert server.visitor.get(f"/live/{state['job']}").content == b"", "there are no frames"


def test_leaving_the_call_ends_reading(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    slow = SlowVideo()
    monkeypatch.setattr(module, "read_video", slow)
    path = pattern(tmp_path / "left.mp4")
    given = server.visitor.post("/gradio_api/upload", files={"files": (path.name, path.read_bytes())}).json()[
        0
    ]
    data = {"data": [{"path": given, "meta": {"_type": "gradio.FileData"}}, True, 1, "Auto"]}
    event = server.visitor.post("/gradio_api/call/run", json=data).json()["event_id"]
    with server.visitor.stream("GET", f"/gradio_api/call/run/{event}") as answer:
        for line in answer.iter_lines():
            if "Reading 3" in line:
                break
    assert slow.ended.wait(20)
