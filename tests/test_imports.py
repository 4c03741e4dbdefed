"""Who may import whom: only downwards, as docs/architecture.md draws it."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
BASE = "base"  # what stands at the package's root and is not listed below
# From bottom to top. Rooms of one level do not import each other.
LEVELS = (
    (BASE,),
    ("kernels",),
    ("parallel",),
    ("model",),
    ("fast",),
    ("formats", "codec", "memory_estimate"),
    ("jobs", "bench"),
    ("api",),
    ("cli",),
    ("page", "notebook"),
    ("app",),
)
LEVEL = {room: level for level, rooms in enumerate(LEVELS) for room in rooms}


def room_of(module: str) -> str:
    """The room of a module such as wanvae_app.jobs.worker, or of app."""
    _, _, inside = module.partition("wanvae_app.")
    room = inside.partition(".")[0] if inside else module
    return room if room in LEVEL else BASE


def imports(path: Path) -> Iterator[tuple[str, int]]:
    """Our own modules that a file imports, with the line; not what only a type checker reads."""
    tree = ast.parse(path.read_text())
    for_types = {
        inner
        for block in ast.walk(tree)
        if isinstance(block, ast.If) and ast.unparse(block.test) == "TYPE_CHECKING"
        for inner in ast.walk(block)
    }
    for node in ast.walk(tree):
        if node in for_types:
            continue
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("wanvae_app"):
            assert node.module is not None
            for alias in node.names:  # a module of the package, or a name in it
                inside = ROOT / f"{node.module}.{alias.name}".replace(".", "/")
                is_module = inside.with_suffix(".py").exists() or inside.is_dir()
                yield f"{node.module}.{alias.name}" if is_module else node.module, node.lineno
        elif isinstance(node, ast.Import):
            yield from ((a.name, node.lineno) for a in node.names if a.name.startswith(("wanvae_app", "app")))


def test_imports_go_down() -> None:
    climbing = []
    for path in [ROOT / "app.py", *(ROOT / "wanvae_app").rglob("*.py")]:
        room = room_of(".".join(path.relative_to(ROOT).with_suffix("").parts))
        for module, line in imports(path):
            other = room_of(module)
            if other != room and LEVEL[other] >= LEVEL[room]:
                climbing.append(f"{path.relative_to(ROOT)}:{line} ({room}) imports {module} ({other})")
    assert not climbing, "\n".join(climbing)


def test_every_folder_is_a_room() -> None:
    folders = {path.name for path in (ROOT / "wanvae_app").iterdir() if (path / "__init__.py").exists()}
    assert folders <= set(LEVEL), folders - set(LEVEL)


def test_no_test_imports_a_test() -> None:
    """What several tests need stands in tests/support."""
    for path in (ROOT / "tests").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.ImportFrom):
                assert not (node.module or "").rpartition(".")[2].startswith("test_"), f"{path}:{node.lineno}"


def test_files_hold_one_subject() -> None:
    """No module is longer than 300 lines."""
    for path in (ROOT / "wanvae_app").rglob("*.py"):
        assert len(path.read_text().splitlines()) <= 300, path
