"""`sitegrid lab`: a real multi-site Kubernetes cluster on this machine.

Each verb is one call of `sitegrid.lab.lab.Lab`. Held by ``tests/lab/test_cli_lab.py``.
"""

from __future__ import annotations

import argparse
import json
import signal
import subprocess
import sys
import time
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

from sitegrid.cli.errors import CommandError

if TYPE_CHECKING:
    from argparse import _SubParsersAction

    from sitegrid.cli.parser import Parser
    from sitegrid.lab.lab import Lab, LabStatus


def add_parser(subparsers: _SubParsersAction[Parser]) -> None:
    """Add this subcommand."""
    parser = subparsers.add_parser(
        "lab",
        help="run a real multi-site cluster on this machine",
        description="Run a real Kubernetes cluster with several sites on this machine, to try one's own YAML.",
    )
    _add_name(parser, "default")
    verbs = parser.add_commands("VERB")

    up = _verb(verbs, "up", "start a lab and return when all of it is ready")
    up.add_argument(
        "--sites", metavar="FILE", help="YAML file with `nodes: [{name, labels}]` (default: the article's)"
    )
    up.add_argument("--no-controller", action="store_true", help="leave sitegrid's controller out")
    up.add_argument("--no-agents", action="store_true", help="leave sitegrid's agents out: stock nodes")
    status = _verb(verbs, "status", "show nodes and processes")
    status.add_argument("-o", "--output", choices=["table", "json"], default="table", help="format")
    _verb(verbs, "kubeconfig", "print the path of the kubeconfig")
    # All that follows is kubectl's own, `-n` and `--help` too: no character begins an option of ours.
    text = "run the lab's own kubectl, of the lab's version, as its administrator"
    kubectl = verbs.add_parser("kubectl", help=text, prefix_chars="\0", add_help=False)
    kubectl.set_defaults(run=run, verb="kubectl")
    kubectl.add_argument("argv", metavar="ARG", nargs=argparse.REMAINDER)
    execute = _verb(verbs, "exec", "run a command of this machine in the network of a node or a pod")
    execute.usage = "%(prog)s [-h] [--name N] NODE|NAMESPACE/POD -- CMD [ARG ...]"
    execute.add_argument("target", metavar="NODE|NAMESPACE/POD")
    execute.add_argument("argv", metavar="-- CMD", nargs="+", help="the command and its arguments, after --")
    wan = _verb(verbs, "wan", "cut, slow down or restore the uplink of a node, or of all nodes with a label")
    wan.add_argument("action", metavar="cut|slow|restore", choices=["cut", "slow", "restore"])
    wan.add_argument("target", metavar="NODE|KEY=VALUE")
    wan.add_argument("--delay", default="", metavar="TIME", help="slow: of each packet, one way, such as 300ms")
    wan.add_argument("--jitter", default="", metavar="TIME", help="slow: how much the delay varies, such as 50ms")
    wan.add_argument("--loss", default="", metavar="SHARE", help="slow: how many packets get lost, such as 5%%")
    wan.add_argument("--rate", default="", metavar="RATE", help="slow: how much passes a second, such as 50kbit")
    node = _verb(verbs, "node", "add a node, or cut a node's power and start it from its disk")
    node.add_argument("action", metavar="add|reboot", choices=["add", "reboot"])
    node.add_argument("node", metavar="NODE")
    node.add_argument("--label", action="append", default=[], metavar="KEY=VALUE", help="may be given several times")
    node.add_argument("--no-agent", action="store_true", help="add a stock node")
    process = _verb(verbs, "process", "start, stop, restart, replace, reload or kill one process")
    actions = ["start", "stop", "restart", "replace", "reload", "kill"]
    process.add_argument("action", metavar="|".join(actions), choices=actions)
    process.add_argument("process", metavar="PROCESS", help="as `lab status` names it, such as kube-proxy@node12")
    _verb(verbs, "build", "build the control plane's programs, or check that they are there")
    every = _verb(verbs, "list", "list all labs of this user", named=False)
    every.add_argument("-o", "--output", choices=["table", "json"], default="table", help="format")
    _verb(verbs, "down", "end a lab and remove everything of it")


def _verb(verbs: _SubParsersAction[Parser], name: str, text: str, *, named: bool = True) -> Parser:
    parser = verbs.add_parser(name, help=text, description=text[0].upper() + text[1:] + ".")
    parser.set_defaults(run=run, verb=name)
    if named:
        # It may also stand before the verb, whose parser must not undo that.
        _add_name(parser, argparse.SUPPRESS)
    return parser


def _add_name(parser: Parser, default: str) -> None:
    parser.add_argument("--name", default=default, metavar="N", help="the lab's name (default: default)")


def run(args: argparse.Namespace) -> int:
    """Run it."""
    from sitegrid.lab.errors import LabError
    from sitegrid.lab.lab import Lab

    try:
        lab = Lab(args.name)
        match args.verb:
            case "up":
                _up(lab, args)
            case "build":
                _build()
            case "status":
                _print_status(lab.status(), args.output)
            case "kubeconfig":
                _ = lab.supervisor_pid
                print(lab.kubeconfig)
            case "kubectl":
                # argparse leaves a `--` in front, which is not kubectl's.
                return _exec(lab.kubectl_argv(args.argv[args.argv[:1] == ["--"] :]))
            case "exec":
                return _exec(lab.command(args.target, args.argv))
            case "wan":
                _wan(lab, args)
            case "node" if args.action == "reboot":
                lab.reboot_node(args.node)
            case "node":
                lab.add_node(args.node, _labels(args.label), agent=not args.no_agent)
            case "process":
                lab.process(args.process, args.action)
            case "list":
                _list(args.output)
            case "down":
                _down(lab)
    except LabError as error:
        raise CommandError(str(error)) from error
    return 0


def _up(lab: Lab, args: argparse.Namespace) -> None:
    from sitegrid.lab.interruption import interrupt_on
    from sitegrid.lab.sites import load_sites

    interrupt_on(signal.SIGTERM)
    sites = load_sites(args.sites) if args.sites else None
    started = time.monotonic()
    lab.up(sites, controller=not args.no_controller, agents=not args.no_agents, progress=_say)
    _say(f"lab {lab.name!r} is ready after {time.monotonic() - started:.1f} s")
    print(f"export KUBECONFIG={lab.kubeconfig}")


def _list(output: str) -> None:
    from sitegrid.lab.lab import Lab
    from sitegrid.lab.layout import lab_names

    labs = [(lab, lab.running) for lab in map(Lab, lab_names())]
    if output == "json":
        print(json.dumps([{"name": lab.name, "running": runs} for lab, runs in labs], indent=2))
    elif not labs:
        _say("there is no lab; start one with `sitegrid lab up`")
    else:
        rows = [[lab.name, "running" if runs else "ended", str(lab.kubeconfig) if runs else ""] for lab, runs in labs]
        print(_table([["NAME", "STATE", "KUBECONFIG"], *rows]))


def _down(lab: Lab) -> None:
    from sitegrid.lab.layout import lab_names

    known = lab_names()
    lab.down()
    # Clean-up scripts need no lab to be there; who has mistyped the name should see it.
    others = [name for name in known if name != lab.name]
    _say(
        f"lab {lab.name!r} is gone"
        if lab.name in known
        else f"there is no lab {lab.name!r}" + (f"; there are {', '.join(others)}" if others else "")
    )


def _build() -> None:
    from sitegrid.lab.binaries import ensure_binaries

    for name, path in ensure_binaries(progress=_say).items():
        print(f"{name}\t{path}")


def _wan(lab: Lab, args: argparse.Namespace) -> None:
    from sitegrid.lab.slowness import SlownessError, parse_slowness

    options = (args.delay, args.jitter, args.loss, args.rate)
    if args.action == "slow":
        try:
            slow = parse_slowness(*options)
        except SlownessError as error:
            raise CommandError(str(error), 2) from error
        nodes = lab.slow_wan(args.target, slow)
        print(f"WAN slow ({slow}): {', '.join(nodes)}")
        return
    if any(options):
        raise CommandError("--delay, --jitter, --loss and --rate are for `wan slow` alone", 2)
    nodes = lab.cut_wan(args.target) if args.action == "cut" else lab.restore_wan(args.target)
    print(f"WAN {'cut' if args.action == 'cut' else 'restored'}: {', '.join(nodes)}")


def _exec(argv: list[str]) -> int:
    """Run `argv` with this terminal; its exit code, 128 + N where signal N ended it, is ours."""
    # The terminal's Ctrl-C goes to the command as well; it decides.
    previous = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        code = subprocess.run(
            argv, check=False, preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL)
        ).returncode
    finally:
        signal.signal(signal.SIGINT, previous)
    return code if code >= 0 else 128 - code


def _labels(pairs: list[str]) -> dict[str, str]:
    labels = {}
    for pair in pairs:
        key, separator, value = pair.partition("=")
        if not separator:
            raise CommandError(f"--label {pair}: use KEY=VALUE", 2)
        labels[key] = value
    return labels


def _print_status(status: LabStatus, output: str) -> None:
    if output == "json":
        print(json.dumps(asdict(status), indent=2, default=_plain))
        return
    ready = {True: "Ready", False: "NotReady", None: "unknown"}
    nodes = [["NODE", "READY", "WAN", "AGENT", "ADDRESS", "LABELS"]]
    for node in status.nodes:
        labels = ",".join(f"{key}={value}" for key, value in sorted(node.labels.items()))
        wan = f"slow: {node.slow}" if node.slow else "up" if node.wan else "cut"
        agent = "yes" if node.agent else "no"
        nodes.append([node.name, ready[node.ready], wan, agent, node.address, labels])
    processes = [["PROCESS", "PID", "STATE", "RESTARTS", "MEMORY"]]
    for process in status.processes:
        memory = "" if process.memory is None else f"{process.memory / 1e6:.0f} MB"
        state = "running" if process.running else "stopped"
        processes.append([process.name, str(process.pid or ""), state, str(process.restarts), memory])
    print(_table(nodes) + "\n\n" + _table(processes))


def _table(rows: list[list[str]]) -> str:
    widths = [max(len(cell) for cell in column) for column in zip(*rows, strict=True)]
    return "\n".join(
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows
    )


def _plain(value: object) -> str:
    assert isinstance(value, Path)
    return str(value)


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)
