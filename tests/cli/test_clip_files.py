"""Which files `decode` and `encode` take, and what their results are called."""

from __future__ import annotations

from pathlib import Path

import pytest

from wanvae_app.cli.clip_files import find_files, name_results

SUFFIXES = (".pt", ".npy")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for name in (
        "a/x.pt",
        "a/y.NPY",
        "a/.hidden.pt",
        "a/.git/z.pt",
        "b/x.pt",
        "b/deep/x.pt",
        "b/text.txt",
        "x.bin",
    ):
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"12345")
    return tmp_path


def results(folder: Path, *inputs: str, out: str = "out") -> dict[str, str]:
    """The result of each input, both relative to their folders."""
    found = find_files([str(folder / text) for text in inputs], SUFFIXES, folder / out)
    named = name_results(found, folder / out, ".mp4")
    return {
        str(file.source.relative_to(folder)): str(file.result.relative_to(folder / out)) for file in named
    }


CASES: dict[str, tuple[tuple[str, ...], dict[str, str]]] = {
    "a file, whatever its suffix": (("x.bin",), {"x.bin": "x.mp4"}),
    "a folder": (("b",), {"b/x.pt": "x.mp4", "b/deep/x.pt": "deep/x.mp4"}),
    "capitals": (("a",), {"a/x.pt": "x.mp4", "a/y.NPY": "y.mp4"}),
    "a pattern": (("*/x.pt",), {"a/x.pt": "a/x.mp4", "b/x.pt": "b/x.mp4"}),
    "a deep pattern": (("b/**/*.pt",), {"b/x.pt": "x.mp4", "b/deep/x.pt": "deep/x.mp4"}),
    "twice": (("a/x.pt", "a/x.pt"), {"a/x.pt": "x.mp4"}),
    "one name in two folders": (("a/x.pt", "b/x.pt"), {"a/x.pt": "a/x.mp4", "b/x.pt": "b/x.mp4"}),
    "folders inside": (
        ("a/x.pt", "b"),
        {"a/x.pt": "a/x.mp4", "b/x.pt": "b/x.mp4", "b/deep/x.pt": "deep/x.mp4"},
    ),
}


@pytest.mark.parametrize("name", CASES)
def test_results_have_names_of_their_own(name: str, folder: Path) -> None:
    inputs, expected = CASES[name]
    assert results(folder, *inputs) == expected


def test_inputs_of_one_name_keep_their_suffix(folder: Path) -> None:
    (folder / "a" / "x.npy").touch()
    assert results(folder, "a/x.pt", "a/x.npy") == {"a/x.pt": "x.pt.mp4", "a/x.npy": "x.npy.mp4"}


def test_results_are_no_inputs(folder: Path) -> None:
    (folder / "b" / "out").mkdir()
    (folder / "b" / "out" / "old.pt").touch()
    assert "b/out/old.pt" not in results(folder, "b", out="b/out")
    assert "b/out/old.pt" not in results(folder, "b/**/*.pt", out="b/out")
    assert results(folder, "b/*.pt", out="b") == {"b/x.pt": "x.mp4"}


@pytest.mark.parametrize(
    "text, sentence",
    [
        ("c", "means no file"),
        ("*.pt", "means no file"),
        ("empty", r"has no files of \.pt, \.npy"),
    ],
)
def test_an_input_that_means_no_file(text: str, sentence: str, folder: Path) -> None:
    (folder / "empty").mkdir()
    with pytest.raises(ValueError, match=sentence):
        results(folder, text)
    with pytest.raises(ValueError, match="An input is empty"):
        find_files([""], (".pt",), folder)
