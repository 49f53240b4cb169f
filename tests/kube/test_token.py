from __future__ import annotations

import logging
from pathlib import Path

import pytest

from sitegrid.kube.config import Config
from sitegrid.kube.token import Token


def test_the_file_wins_over_the_fixed_token(tmp_path: Path) -> None:
    """As in kubeconfigs, a token file is the fresher source; white space around it is not part of it."""
    (tmp_path / "token").write_text(" fresh\n")
    assert Token(Config(server="x", token="fixed", token_file=tmp_path / "token")).current() == "fresh"
    assert Token(Config(server="x", token="fixed")).current() == "fixed"
    assert Token(Config(server="x")).current() == ""


def test_a_swapped_symlink_is_followed(tmp_path: Path) -> None:
    """The kubelet swaps a directory symlink; the token of the new directory is used."""
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "token").write_text(name)
    link = tmp_path / "data"
    link.symlink_to("one")
    token = Token(Config(server="x", token_file=link / "token"))
    assert token.current() == "one"
    (tmp_path / "next").symlink_to("two")
    (tmp_path / "next").rename(link)
    assert token.current() == "two"


def test_a_vanished_file_leaves_the_last_token(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """The last token may still be good; that the file is gone is logged."""
    file = tmp_path / "token"
    file.write_text("last")
    token = Token(Config(server="x", token_file=file))
    assert token.current() == "last"
    file.unlink()
    with caplog.at_level(logging.WARNING):
        assert token.current() == "last"
    assert str(file) in caplog.text
