"""What is said about mistakes on the command line."""

from __future__ import annotations

import pytest

from sitegrid.cli.main import build_parser, main


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["labb", "up"], "unknown command 'labb', did you mean 'lab'? See `sitegrid --help`"),
        (["version"], "unknown command 'version', did you mean '--version'? See `sitegrid --help`"),
        (["lab", "stats"], "unknown verb 'stats', did you mean 'status'? See `sitegrid lab --help`"),
        (["lab", "wan", "chop", "a"], "unknown action 'chop': use cut, slow, restore; see `sitegrid lab wan --help`"),
        (["crds", "--chek", "x"], "unknown option '--chek', did you mean '--check'? See `sitegrid crds --help`"),
        (["lab", "status", "--nam", "x"], "unknown option '--nam', did you mean '--name'? See `sitegrid lab status"),
        (["lab", "exec", "a", "curl", "-s"], "unknown option '-s'; see `sitegrid lab exec --help`"),
        (["lab", "wan"], "the following arguments are required: cut|slow|restore, NODE|KEY=VALUE; see `sitegrid lab"),
        (["lab", "up", "--sites"], "argument --sites: needs a value; see `sitegrid lab up"),
        (["migrate", "--apply=true"], "argument --apply: takes no value, but was given 'true'; see"),
        (["crds", "x"], "unexpected argument 'x'; see `sitegrid crds --help`"),
        (["explain", "dg/web"], "the following arguments are required: UNIT; see `sitegrid explain --help`"),
        (["explain", "web", "hz", "-o", "wide"], "unknown -o/--output 'wide': use yaml, json; see"),
    ],
)  # fmt: skip
def test_a_mistake_is_one_line(words: list[str], said: str, capsys: pytest.CaptureFixture[str]) -> None:
    """It names the word, the nearest one that there is, and whose help to ask for; the exit code is 2."""
    with pytest.raises(SystemExit) as ended:
        main(words)
    assert ended.value.code == 2
    shown = capsys.readouterr()
    assert shown.err.startswith(f"error: {said}")
    assert shown.err.endswith(" --help`\n")
    assert shown.err.count("\n") == 1
    assert not shown.out


@pytest.mark.parametrize("words", [[], ["lab"]])
def test_without_a_command_the_commands_are_shown(words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    """Who types the name alone wants to know what there is; a script that does so has made a mistake."""
    assert main(words) == 2
    shown = capsys.readouterr()
    assert shown.err.startswith("usage: sitegrid")
    assert not shown.out


def test_every_option_is_explained() -> None:
    """`--help` leaves no option without a word about it."""
    parsers = [build_parser()]
    for parser in parsers:
        for action in parser._actions:
            parsers += [] if not isinstance(action.choices, dict) else action.choices.values()
            if action.option_strings and not isinstance(action.choices, dict):
                assert action.help, f"{parser.prog} {action.option_strings[0]}"


def test_a_labs_name_may_stand_anywhere() -> None:
    """`lab --name x status` and `lab status --name x` are the same."""
    for words in (["--name", "x", "status"], ["status", "--name", "x"]):
        assert build_parser().parse_args(["lab", *words]).name == "x"
    assert build_parser().parse_args(["lab", "status"]).name == "default"


def test_kubectls_plug_in_calls_itself_so(monkeypatch: pytest.MonkeyPatch) -> None:
    """Usage and errors of `kubectl grid` can be typed again."""
    monkeypatch.setattr("sys.argv", ["/usr/bin/kubectl-grid"])
    assert build_parser().prog == "kubectl grid"
