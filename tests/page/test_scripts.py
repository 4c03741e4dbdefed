"""The page's scripts without a browser: the tests in JavaScript, run by the node that Playwright brings."""

from __future__ import annotations

import subprocess
from pathlib import Path

import playwright

SCRIPTS = Path(__file__).parent / "scripts"


def test_the_scripts_pure_parts() -> None:
    tests = sorted(SCRIPTS.glob("*.test.js"))
    assert tests
    node = next((Path(playwright.__file__).parent / "driver").glob("node*"))  # node.exe on Windows
    ran = subprocess.run([node, "--test", *tests], capture_output=True, text=True, timeout=120)
    assert ran.returncode == 0, ran.stdout + ran.stderr
