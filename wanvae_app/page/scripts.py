"""The page's scripts: ES modules from assets/page, and the two short texts that Gradio itself runs."""

from __future__ import annotations

import functools
import hashlib
import json
from collections.abc import Sequence
from pathlib import Path

from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response

from wanvae_app.assets import PAGE


class Scripts:
    """Serves the modules.

    Reads them once, at the start. No path from a client is ever opened, and all modules of a page are of one version
    though the files may be replaced meanwhile.
    """

    def __init__(self, folder: Path = PAGE) -> None:
        self._texts = {path.name: path.read_bytes() for path in folder.glob("*.js")}
        self._tags = {name: f'"{hashlib.sha256(text).hexdigest()}"' for name, text in self._texts.items()}

    async def script(self, request: Request) -> Response:
        """Answer page/NAME. A browser keeps the script, but asks each time whether it is still the same."""
        name = request.path_params["name"]
        if name not in self._texts:
            raise HTTPException(404, "There is no such script.")
        tag = self._tags[name]
        headers = {"ETag": tag, "Cache-Control": "no-cache"}
        if tag in request.headers.get(
            "if-none-match", ""
        ):  # perhaps as W/"...", which compressing proxies make of it
            return Response(status_code=304, headers=headers)
        return Response(self._texts[name], media_type="text/javascript", headers=headers)


@functools.cache
def head() -> str:
    """The script that runs before the page is built, as HTML. It stays the same though the file may be replaced."""
    return f"<script>{(PAGE / 'head.js').read_text(encoding='utf-8')}</script>"


def load_module(name: str) -> str:
    """What Gradio runs when a component is on the page: the function `start` of one module."""
    assert (PAGE / name).is_file(), name
    return f'{(PAGE / "on_load.js").read_text(encoding="utf-8")}load("{name}");\n'


def call_module(name: str, function: str, *first: Sequence[str]) -> str:
    """What Gradio runs at an event: a function of a module, with `first`, and the values of the event's inputs."""
    assert (PAGE / name).is_file(), name
    address = f'new URL("page/{name}", document.baseURI).href'
    arguments = "".join(f"{json.dumps(list(each))}, " for each in first)
    return f"async (...values) => (await import({address})).{function}({arguments}...values)"
