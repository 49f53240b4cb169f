"""A lab as seen from the host: `Lab`, the synchronous API under `sitegrid lab`, the demo and the tests.

`up` starts one supervisor in fresh namespaces and waits for it; everything else talks to that supervisor's control
socket or enters its namespaces. Invariant: when `up` fails, is interrupted, or the supervisor dies in any way,
nothing is left but at most a state directory, which the next `up` or `down` clears. Used in a ``with`` statement a
lab also ends with the process that started it, however that ends. Held by ``tests/lab/test_lab.py``,
``tests/lab/test_crash.py`` and ``tests/lab/test_ended_run.py``.
"""

from __future__ import annotations

import compileall
import contextlib
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence, Set
from dataclasses import asdict, dataclass
from pathlib import Path
from types import TracebackType
from typing import IO, Any, Final

import sitegrid
from sitegrid.lab import control
from sitegrid.lab.binaries import ensure_binaries
from sitegrid.lab.config import LabConfig
from sitegrid.lab.errors import LabError
from sitegrid.lab.kubelet.sandbox import enter_argv
from sitegrid.lab.layout import Layout, try_lock
from sitegrid.lab.network import netns_path
from sitegrid.lab.requirements import check_requirements, check_space
from sitegrid.lab.sites import Node, Sites, default_sites
from sitegrid.lab.slowness import Slowness

__all__ = ["Lab", "LabError", "LabNotRunning", "LabRunning", "LabStatus", "NodeStatus", "ProcessStatus"]

DEFAULT_NAME: Final = "default"
_END_TIMEOUT: Final = 30.0
"""Seconds that the kernel may take to end a killed lab."""


_NO_PROXIES: Final = tuple(
    word
    for name in ("http_proxy", "https_proxy", "all_proxy", "HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY")
    for word in ("-u", name)
)


@dataclass(frozen=True, slots=True)
class NodeStatus:
    """A node: `ready` is None while the API server does not answer; `wan` is false while its uplink is cut.

    `slow` is None while its uplink is as fast as the machine, or cut.
    """

    name: str
    labels: Mapping[str, str]
    wan: bool
    slow: Slowness | None
    ready: bool | None
    agent: bool
    address: str


@dataclass(frozen=True, slots=True)
class ProcessStatus:
    """A process: `pid` as the host sees it, `memory` resident in bytes; both None while it does not run."""

    name: str
    pid: int | None
    running: bool
    restarts: int
    memory: int | None


@dataclass(frozen=True, slots=True)
class LabStatus:
    """What `Lab.status` returns."""

    name: str
    kubeconfig: Path
    nodes: Sequence[NodeStatus]
    processes: Sequence[ProcessStatus]


class LabRunning(LabError):
    """`up` of a lab that runs."""


class LabNotRunning(LabError):
    """Anything else of a lab that does not run."""


def _quiet(text: str) -> None:
    """Report no progress."""


class Lab:
    """The lab `name`, running or not, with its state below `directory` (default: the user's state directory).

    In a ``with`` statement it ends with the block, or with this process where that does not get to the block's end.
    """

    def __init__(self, name: str = DEFAULT_NAME, *, directory: Path | None = None) -> None:
        self.name = name
        self.layout = Layout.of(name, directory)
        self._process: subprocess.Popen[bytes] | None = None
        self._attached = False

    def __enter__(self) -> Lab:
        self._attached = True
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        # A lab that ran before is not ours to end.
        if not isinstance(value, LabRunning):
            self.down()

    @property
    def kubeconfig(self) -> Path:
        """The administrator's kubeconfig, for use on the host."""
        return self.layout.kubeconfig

    # --- life ---

    def up(
        self,
        sites: Sites | None = None,
        *,
        controller: bool = True,
        agents: bool = True,
        progress: Callable[[str], None] = _quiet,
    ) -> None:
        """Start the lab and return when all of it is ready.

        Without `controller` or `agents` it is a plain Kubernetes cluster, for comparison. Raises `LabRunning` where
        it runs already, `LabError` where it cannot be started; then nothing of it is left.
        """
        lock = self._lock()
        try:
            self._collect()
            self._clear()
            user_namespace = check_requirements()
            check_space(self.layout.root)
            binaries = ensure_binaries(progress=progress)
            # Agents run on a read-only root, where Python could not keep its bytecode: each start would make it anew.
            compileall.compile_dir(Path(sitegrid.__file__).parent, quiet=2)
            with socket.create_server(("127.0.0.1", 0)) as listener:
                config = LabConfig(
                    name=self.name,
                    binaries={name: str(path) for name, path in binaries.items()},
                    port=listener.getsockname()[1],
                    nodes=(sites or default_sites()).nodes,
                    controller=controller,
                    agents=agents,
                    user_namespace=user_namespace,
                    environment=_environment(self.layout.root),
                )
                config.write(self.layout.config)
                self._process = _start_supervisor(
                    config, self.layout, listener.fileno(), lock, attached=self._attached
                )
            self._follow(self._process, progress)
            if not self._attached and self._process.stdout is not None:
                self._process.stdout.close()
        except BaseException as error:
            self._abort()
            if not isinstance(error, LabError) or not any(self.layout.logs.glob("*")):
                shutil.rmtree(self.layout.root, ignore_errors=True)
            raise
        finally:
            os.close(lock)

    def down(self) -> None:
        """End the lab, running or crashed, and remove its state; does nothing where there is none."""
        deadline = time.monotonic() + _END_TIMEOUT
        try:
            while (lock := try_lock(self.layout.lock)) is None:
                self._kill()
                if time.monotonic() > deadline:
                    raise LabError(f"lab {self.name!r} does not end: another command holds it, or a process is stuck")
                time.sleep(0.02)
        except FileNotFoundError:
            return
        try:
            self._collect()
            while self.layout.root.exists() and time.monotonic() < deadline:
                # A process that the kernel is about to end may still write.
                shutil.rmtree(self.layout.root, ignore_errors=True)
        finally:
            os.close(lock)

    @property
    def running(self) -> bool:
        """Whether its supervisor lives."""
        try:
            control.peer_pid(self.layout.control)
        except OSError:
            return False
        return True

    @property
    def supervisor_pid(self) -> int:
        """The supervisor's process id on the host; raises `LabNotRunning`."""
        try:
            return control.peer_pid(self.layout.control)
        except OSError as error:
            raise self._not_running() from error

    # --- use ---

    def status(self) -> LabStatus:
        """Return the state of its nodes and processes."""
        answer = self._ask({"verb": "status"})
        pids = _host_pids(self.supervisor_pid)
        for process in answer["processes"]:
            process["pid"] = pids.get(process["pid"])
        for node in answer["nodes"]:
            node["slow"] = Slowness(**node["slow"]) if node["slow"] is not None else None
        return LabStatus(
            name=self.name,
            kubeconfig=self.kubeconfig,
            nodes=[NodeStatus(**node) for node in answer["nodes"]],
            processes=[ProcessStatus(**process) for process in answer["processes"]],
        )

    def command(self, target: str, argv: Sequence[str]) -> list[str]:
        """Return the argv that, run on the host, runs `argv` in the node `target` or the pod ``NAMESPACE/POD``.

        It runs in the directory ``/`` with the caller's environment, less the host's proxies: they cannot be reached.
        Raises `LabError` where there is no such node or pod.
        """
        pid = self.supervisor_pid
        config = LabConfig.read(self.layout.config)
        user = ["--user", "--preserve-credentials"] if config.user_namespace else []
        inner = self._pod_argv(target, argv) if "/" in target else self._node_argv(target, argv)
        enter = ["nsenter", f"--target={pid}", *user, "--mount", "--net", "--pid", "--"]
        return [*enter, "env", *_NO_PROXIES, *inner]

    def run(self, target: str, argv: Sequence[str], **kwargs: Any) -> subprocess.CompletedProcess[str]:
        """Run `argv` in the node or pod `target`, as `subprocess.run` does with `kwargs`, in text mode."""
        done: subprocess.CompletedProcess[str] = subprocess.run(
            self.command(target, argv), **{**kwargs, "text": True}
        )
        return done

    def kubectl_argv(self, args: Sequence[str]) -> list[str]:
        """Return the argv that runs the lab's own kubectl with `args`; raises `LabNotRunning`."""
        _ = self.supervisor_pid
        config = LabConfig.read(self.layout.config)
        cache = self.layout.root / "kubectl-cache"
        return [config.binaries["kubectl"], f"--kubeconfig={self.kubeconfig}", f"--cache-dir={cache}", *args]

    def kubectl(
        self, *args: str, input: str | None = None, check: bool = True, **kwargs: Any
    ) -> subprocess.CompletedProcess[str]:
        """Run the lab's own kubectl, capturing its output; raises `LabError` where it fails and `check` is set."""
        argv = self.kubectl_argv(args)
        done = subprocess.run(argv, input=input, capture_output=True, text=True, check=False, **kwargs)
        if check and done.returncode:
            raise LabError(f"kubectl {' '.join(args)}: {done.stderr.strip()}")
        return done

    def cut_wan(self, target: str) -> list[str]:
        """Cut the uplink of the node `target`, or of all with the label ``KEY=VALUE``; return the nodes' names."""
        return self._wan(target, up=False)

    def slow_wan(self, target: str, slow: Slowness) -> list[str]:
        """Connect the uplinks of what `cut_wan` takes as such a slow one; return the nodes' names."""
        return self._wan(target, up=True, slow=slow)

    def restore_wan(self, target: str) -> list[str]:
        """Undo `cut_wan` and `slow_wan`."""
        return self._wan(target, up=True)

    def add_node(self, name: str, labels: Mapping[str, str], *, agent: bool = True) -> None:
        """Add a node and return when it is ready and its parts are; without `agent` a stock one."""
        node = Node(name, dict(labels), agent)
        self._ask({"verb": "node-add", "name": node.name, "labels": dict(node.labels), "agent": agent})

    def reboot_node(self, node: str) -> None:
        """Cut the power of `node` and start it again from its disk; returns when its own parts are ready.

        The kubelet's pods start by themselves, some time later.
        """
        self._ask({"verb": "node-reboot", "node": node})

    def set_agent(self, node: str, agent: bool) -> None:
        """Put the node's clients behind its agent, or stop it and let them ask the API server."""
        self._ask({"verb": "set-agent", "node": node, "agent": agent})

    def process(self, name: str, action: str) -> None:
        """``start``, ``stop``, ``restart`` or ``kill`` (it is started again, as after any crash) one process.

        An agent can also be told to ``reload``, or be made to ``replace`` itself: another one is started beside it.
        """
        self._ask({"verb": "process", "name": name, "action": action})

    # --- inside ---

    def _not_running(self) -> LabNotRunning:
        return LabNotRunning(f"lab {self.name!r} is not running; start it with `{self._command('up')}`")

    def _command(self, verb: str) -> str:
        """Return what to type to do `verb` to this lab."""
        return f"sitegrid lab {verb}" + (f" --name {self.name}" if self.name != DEFAULT_NAME else "")

    def _lock(self) -> int:
        if self.layout.root.resolve().is_relative_to("/run"):
            raise LabError(f"a lab cannot keep its state in {self.layout.root}: it has a /run of its own")
        try:
            self.layout.root.mkdir(parents=True, exist_ok=True, mode=0o700)
            lock = try_lock(self.layout.lock)
        except OSError as error:
            raise LabError(f"cannot use the directory {self.layout.root}: {error.strerror}") from error
        if lock is None:
            raise LabRunning(f"lab {self.name!r} is already running; end it with `{self._command('down')}` first")
        return lock

    def _clear(self, keep: Set[Path] = frozenset()) -> None:
        """Remove what a lab has left in its state directory; the caller holds the lock."""
        for entry in self.layout.root.iterdir():
            if entry in keep or entry == self.layout.lock:
                continue
            if entry.is_dir() and not entry.is_symlink():
                shutil.rmtree(entry, ignore_errors=True)
            else:
                entry.unlink(missing_ok=True)

    def _abort(self) -> None:
        """Leave nothing of a lab that did not come up but its logs, which the next `up` or `down` removes."""
        process = self._process
        if process is not None:
            # The supervisor ends when nobody listens; killing its parent first would not wait for the lab's end.
            if process.stdout is not None:
                process.stdout.close()
            try:
                process.wait(_END_TIMEOUT)
            except subprocess.TimeoutExpired:
                process.kill()
            self._collect()
        self._clear(keep={self.layout.logs})

    def _collect(self) -> None:
        """Take the exit of a supervisor that this object has started and that has ended or is about to."""
        if self._process is not None:
            self._process.wait()
            if self._process.stdout is not None:
                self._process.stdout.close()
            self._process = None

    def _kill(self) -> None:
        with contextlib.suppress(OSError, ProcessLookupError):
            os.kill(control.peer_pid(self.layout.control), signal.SIGKILL)

    def _follow(self, process: subprocess.Popen[bytes], progress: Callable[[str], None]) -> None:
        """Pass on the supervisor's progress until it is ready; raises `LabError` where it fails."""
        output: IO[bytes] = process.stdout  # type: ignore[assignment]  # it was started with a pipe
        stray = ""
        for line in output:
            try:
                message = json.loads(line)
            except ValueError:
                stray = line.decode(errors="replace").strip() or stray
                continue
            if "progress" in message:
                progress(message["progress"])
            elif "error" in message:
                raise LabError(message["error"])
            elif "ready" in message:
                return
        raise LabError(f"the lab's supervisor ended: {stray or 'without a word'}")

    def _ask(self, request: dict[str, Any]) -> dict[str, Any]:
        try:
            return control.ask(self.layout.control, request)
        except OSError as error:
            raise self._not_running() from error

    def _wan(self, target: str, *, up: bool, slow: Slowness | None = None) -> list[str]:
        request = {"verb": "wan", "target": target, "up": up, "slow": asdict(slow) if slow is not None else None}
        nodes: list[str] = self._ask(request)["nodes"]
        return nodes

    def _node_argv(self, node: str, argv: Sequence[str]) -> list[str]:
        if not self.layout.node(node).is_dir():
            raise LabError(f"no node {node!r} in this lab; a pod is named NAMESPACE/POD")
        return ["nsenter", f"--net={netns_path(node)}", "--", *argv]

    def _pod_argv(self, target: str, argv: Sequence[str]) -> list[str]:
        namespace, _, name = target.partition("/")
        for node in self.layout.nodes.iterdir():
            # A pod that ends at this moment is none.
            with contextlib.suppress(FileNotFoundError, NotADirectoryError):
                return enter_argv(self.layout.pods(node.name) / f"{namespace}_{name}", list(argv))
        raise LabError(f"no pod {target!r} runs in this lab")


def _start_supervisor(
    config: LabConfig, layout: Layout, listener: int, lock: int, *, attached: bool
) -> subprocess.Popen[bytes]:
    """Start the supervisor as process 1 of its own namespaces.

    `unshare` stays as its parent and holds the lock as well, so the lock is free only when the kernel has ended
    everything in the process namespace. While the lab starts, and all the time where it is `attached`, it ends by
    itself when the returned pipe is closed, which the kernel does for a process that is gone.
    """
    user = ["--user", "--map-root-user"] if config.user_namespace else []
    argv = ["unshare", *user, "--mount", "--net", "--pid", "--mount-proc", "--fork", "--kill-child", "--"]
    argv += [sys.executable, "-m", "sitegrid.lab.supervisor", f"--root={layout.root}"]
    argv += [f"--listener={listener}", f"--lock={lock}", *(["--attached"] if attached else [])]
    return subprocess.Popen(
        argv,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        pass_fds=(listener, lock),
        env=dict(config.environment),
        start_new_session=True,
    )


def _environment(home: Path) -> dict[str, str]:
    """Return the environment of everything in a lab: the user's proxies and kubeconfigs have no meaning there."""
    kept = {name: os.environ[name] for name in ("PYTHONPATH", "LANG", "LC_ALL", "TZ") if name in os.environ}
    path = f"{os.environ.get('PATH', '')}:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin".lstrip(":")
    return {**kept, "PATH": path, "HOME": str(home), "PYTHONUNBUFFERED": "1"}


def _host_pids(supervisor: int) -> dict[int, int]:
    """Map process ids inside the supervisor's process namespace to the host's (proc(5), NSpid)."""
    namespace = Path(f"/proc/{supervisor}/ns/pid").readlink()
    pids: dict[int, int] = {}
    for entry in Path("/proc").iterdir():
        if not entry.name.isdigit():
            continue
        with contextlib.suppress(OSError, ValueError):
            if (entry / "ns" / "pid").readlink() != namespace:
                continue
            for line in (entry / "status").read_text(encoding="utf-8", errors="replace").splitlines():
                if line.startswith("NSpid:"):
                    pids[int(line.split()[-1])] = int(entry.name)
    return pids
