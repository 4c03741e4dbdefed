"""CellOutput: one output of a notebook's cell, which is replaced while the cell runs."""

from __future__ import annotations

import html
from typing import Any


class CellOutput:
    """Shows HTML in the cell that makes it; `update` replaces what it shows. A terminal prints `text` instead."""

    def __init__(self, content: str, text: str) -> None:
        self._handle: Any = None  # without a notebook or an IPython there is none
        try:
            import IPython.display
        except ModuleNotFoundError:
            print(text)
            return
        display: Any = IPython.display.display  # has no types
        self._handle = display(_Shown(content, text), display_id=True)

    def update(self, content: str, text: str) -> None:
        """Show this instead."""
        if self._handle is None:
            print(text)
        else:
            self._handle.update(_Shown(content, text))


class _Shown:
    """Something with an HTML form for notebooks and a text for terminals."""

    def __init__(self, content: str, text: str) -> None:
        self.content, self.text = content, text

    def _repr_html_(self) -> str:
        return self.content

    def __repr__(self) -> str:
        return self.text


def image_tag(address: str, width: int, title: str) -> str:
    """Return an <img>, `width` pixels wide, with a title."""
    name = html.escape(title)
    return f'<img src="{address}" title="{name}" alt="{name}" style="width:{width}px;max-width:100%;display:block">'
