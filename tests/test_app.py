"""The command line of app.py."""

from __future__ import annotations

import pytest

import app


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        ([], False),
        (["--host", "localhost"], False),
        (["--host", "0.0.0.0"], True),
        (["--share"], True),
        (["--allow-host", "box.example.org"], True),
        (["--share", "--host", "0.0.0.0", "--auth", "ann:secret:with:colons"], False),
    ],
)
def test_a_page_without_a_password_is_open_beyond_this_machine(arguments: list[str], expected: bool) -> None:
    assert app.is_open(app.parse(arguments)) == expected


@pytest.mark.parametrize(
    "arguments",
    [["--auth", "ann"], ["--auth", ":x"], ["--dtype", "int8"], ["--port", "x"], ["--allow-host", "a/b"]],
)
def test_a_wrong_option_is_refused(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        app.parse(arguments)
    assert arguments[0] in capsys.readouterr().err
