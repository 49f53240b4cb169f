"""What a lab needs from the machine: tools and kernel features, checked before anything is started.

`Lab.up` calls it. Nothing is installed here; the message names the Debian package and the command.
Held by ``tests/lab/test_requirements.py``.
"""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Final

from sitegrid.lab.errors import LabError

TOOLS: Final = {
    "unshare": "util-linux",
    "nsenter": "util-linux",
    "setpriv": "util-linux",
    "setsid": "util-linux",
    "mount": "mount",
    "ip": "iproute2",
    "nft": "nftables",
}
"""Programs that the lab runs, and the Debian package of each."""

SPACE: Final = 256 << 20
"""Bytes that a lab of a few nodes wants: etcd takes 125 MB at once."""

_SYSTEM_PATH: Final = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"

_PROBE: Final = (
    "ip link add probe0 type veth peer name probe1 && ip link add probe2 type bridge && nft add table ip probe"
    " && mount -t tmpfs tmpfs /run"
)
"""What the lab does later, tried once in throw-away namespaces."""


def check_requirements(
    which: Callable[[str], str | None] = lambda tool: shutil.which(tool, path=search_path()),
) -> bool:
    """Check tools and kernel; return whether a user namespace is needed. Raises `LabError` with the remedy."""
    missing = [tool for tool in TOOLS if which(tool) is None]
    if missing:
        packages = " ".join(sorted({TOOLS[tool] for tool in missing}))
        raise LabError(
            f"the lab needs {', '.join(missing)}, which this machine lacks; install: apt-get install {packages}"
        )
    root = os.geteuid() == 0
    failure = probe([])
    if root and failure is None:
        return False
    failure = probe(["--user", "--map-root-user"])
    if failure is None:
        return True
    remedy = "run it in a privileged container" if root else "run it as root, or allow user namespaces"
    raise LabError(f"the kernel does not let the lab make its namespaces and links ({failure}); {remedy}")


def check_space(directory: Path) -> None:
    """Raise `LabError` where the disk of `directory` has no room for a lab, whose programs would end oddly."""
    free = shutil.disk_usage(directory).free
    if free < SPACE:
        raise LabError(
            f"a lab needs {SPACE >> 20} MB of disk, and {directory} has {free >> 20} MB: make room, or set "
            "SITEGRID_LAB_DIR to a directory elsewhere"
        )


def probe(user: list[str]) -> str | None:
    """Try the lab's kernel features in throw-away namespaces; return None, or the reason why they fail."""
    argv = ["unshare", *user, "--mount", "--net", "--pid", "--mount-proc", "--fork", "--kill-child"]
    done = subprocess.run(
        [*argv, "--", "sh", "-ec", _PROBE],
        capture_output=True,
        text=True,
        check=False,
        stdin=subprocess.DEVNULL,
        env={**os.environ, "PATH": search_path()},
    )
    if done.returncode == 0:
        return None
    return (done.stderr.strip() or f"exit code {done.returncode}").splitlines()[-1]


def search_path() -> str:
    """Return $PATH with the system's directories: a user's often lacks the sbin ones, where `ip` and `nft` are."""
    return f"{os.environ.get('PATH', '')}:{_SYSTEM_PATH}".lstrip(":")
