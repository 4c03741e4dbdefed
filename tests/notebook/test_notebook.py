"""assets/wanvae.ipynb: it runs from its first cell to its last, and is kept without outputs."""

from __future__ import annotations

import os
import re
import uuid
from pathlib import Path
from typing import Any

import nbformat
import pytest
from nbclient import NotebookClient
from support.app_runner import ROOT, surroundings, wait_for

NOTEBOOK = ROOT / "assets" / "wanvae.ipynb"


class Recorder(NotebookClient):
    """A client that keeps every state of the cells' outputs, also those that were replaced."""

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self.shown: dict[str, list[str]] = {}

    def process_message(self, msg: Any, cell: Any, cell_index: int) -> Any:
        if html := msg["content"].get("data", {}).get("text/html"):
            self.shown.setdefault(cell["id"], []).append(html)
        return super().process_message(msg, cell, cell_index)


def read() -> Any:
    return nbformat.read(NOTEBOOK, 4)  # type: ignore[no-untyped-call]


def test_it_is_kept_without_outputs() -> None:
    notebook = read()
    nbformat.validate(notebook)
    code = [cell for cell in notebook.cells if cell.cell_type == "code"]
    assert all(cell.outputs == [] and cell.execution_count is None and not cell.metadata for cell in code)
    assert set(notebook.metadata) == {"kernelspec", "language_info"}
    assert NOTEBOOK.stat().st_size < 20_000


def processes(mark: str) -> list[int]:
    """All running processes with this text in their environment."""
    found = []
    for path in Path("/proc").glob("[0-9]*"):
        try:
            if mark.encode() in (path / "environ").read_bytes():
                found.append(int(path.name))
        except OSError:
            continue  # it has just ended, or is not ours
    return found


@pytest.mark.filterwarnings("ignore:.*TCP without encryption")
def test_it_runs(tmp_path: Path) -> None:
    """From a folder that is no checkout, on two ranks; nothing is left running."""
    notebook, mark = read(), uuid.uuid4().hex
    client = Recorder(
        notebook, timeout=120, kernel_name="python3", resources={"metadata": {"path": str(tmp_path)}}
    )
    # One thread: on a busy machine several wait for each other in every small convolution.
    client.execute(env=surroundings(NOTEBOOK_MARK=mark, OMP_NUM_THREADS="1"))
    outputs = {cell["id"]: cell.outputs for cell in notebook.cells if cell.cell_type == "code"}
    stderr = [out for cell in outputs.values() for out in cell if out.get("name") == "stderr"]
    assert not stderr, stderr

    strips = client.shown["decode"]  # while the cell ran
    progress = [int(value) for html in strips for value in re.findall(r'value="(\d+)"', html)]
    assert progress[0] == 0 and progress[-1] == 17 and len(set(progress)) >= 4, progress
    assert strips[-1].count("data:image/jpeg") == 11  # the newest frame, and the strip
    assert all("data:video/mp4;base64," in client.shown[cell][0] for cell in ("play", "video"))
    assert all(
        any("image/png" in out.data for out in outputs[cell]) for cell in ("chunks-plot", "video-plot")
    )
    assert "<iframe src=" in client.shown["page"][-1]
    # Closing it replaced the frame.
    assert [out.data["text/html"] for out in outputs["page"]] == ["The page is closed."]
    wait_for(lambda: not processes(mark), 20)
    assert os.listdir(tmp_path) == []
