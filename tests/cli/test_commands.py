"""The command `wanvae`: its subcommands, and what it says of others."""

from __future__ import annotations

import pytest

import wanvae_app
from wanvae_app.cli import commands, launch
from wanvae_app.cli.ports import free_port


def test_help_names_every_command(capsys: pytest.CaptureFixture[str]) -> None:
    for arguments in ([], ["--help"], ["-h"]):
        commands.main(arguments)
        printed = capsys.readouterr().out
        assert printed.startswith("usage: wanvae COMMAND")
        assert all(command.summary in printed for command in commands.COMMANDS.values())


def test_the_version_stands_in_one_place(capsys: pytest.CaptureFixture[str]) -> None:
    commands.main(["--version"])
    assert capsys.readouterr().out.split() == ["wanvae", wanvae_app.__version__]


def test_an_unknown_command_is_refused_in_a_sentence(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as refusal:
        commands.main(["sing"])
    assert refusal.value.code == 2
    assert capsys.readouterr().err == "wanvae: 'sing' is no command; choose serve, decode, encode.\n"


def test_serve_is_the_launcher(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    started: list[list[str]] = []
    monkeypatch.setattr(launch.os, "execv", lambda program, command: started.append(command))
    commands.main(["serve", "--cpu", "2", "--port", str(free_port())])
    (command,) = started
    assert command[2] == "wanvae_app.cli.torchrun" and str(launch.APP) in command
    with pytest.raises(SystemExit):
        commands.main(["serve", "--cpu", "0"])
    error = capsys.readouterr().err
    assert "wanvae serve: error: --cpu 0" in error and "launch.sh" not in error
