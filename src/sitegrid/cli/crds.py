"""`sitegrid crds`: prints the CustomResourceDefinitions, or writes or checks the committed files.

Held by ``tests/api/test_crds.py``.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from sitegrid.cli.errors import CommandError

if TYPE_CHECKING:
    from argparse import _SubParsersAction

    from sitegrid.cli.parser import Parser


def add_parser(subparsers: _SubParsersAction[Parser]) -> None:
    """Add this subcommand."""
    parser = subparsers.add_parser(
        "crds",
        help="print the CustomResourceDefinitions (pipe them to `kubectl apply -f -`)",
        description="Print the CustomResourceDefinitions of sitegrid: `sitegrid crds | kubectl apply -f -`.",
    )
    parser.add_argument(
        "--superedge", action="store_true", help="SuperEdge's kinds (superedge.io, site.superedge.io) instead of ours"
    )
    group = parser.add_mutually_exclusive_group()
    group.add_argument("--write", metavar="DIR", type=Path, help="write one file per kind into DIR instead")
    group.add_argument(
        "--check", metavar="DIR", type=Path, help="fail where the files in DIR are not what --write makes"
    )
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Print, write or check the CRDs.

    Raises:
        CommandError: A file is missing, stale, or cannot be written.
    """
    from sitegrid.api.schema import crd_files, superedge_files

    files = superedge_files() if args.superedge else crd_files()
    if args.write:
        _write(args.write, files)
    elif args.check:
        _check(args.check, files, "--superedge " if args.superedge else "")
    else:
        sys.stdout.write("---\n".join(files.values()))
    return 0


def _write(directory: Path, files: dict[str, str]) -> None:
    try:
        directory.mkdir(parents=True, exist_ok=True)
        for name, text in files.items():
            (directory / name).write_text(text, encoding="utf-8")
    except OSError as error:
        raise CommandError(f"cannot write {error.filename}: {error.strerror}") from error


def _check(directory: Path, files: dict[str, str], option: str) -> None:
    if not directory.is_dir():
        raise CommandError(
            f"{directory} is not a directory: make it with `sitegrid crds {option}--write {directory}`"
        )
    present = {path.name: path.read_text(encoding="utf-8") for path in directory.glob("*.yaml")}
    stale = sorted(name for name in files.keys() | present.keys() if files.get(name) != present.get(name))
    if stale:
        raise CommandError(
            f"{', '.join(stale)} in {directory} differ: run `sitegrid crds {option}--write {directory}`"
        )
