"""Runs a command as a hardened container would: as nobody, without capabilities, on a read-only root of its own.

The lab starts its agents with it, by path, as ``python -I -S confine.py --data DIR [--file FILE]… -- CMD…``, so that
every test of a lab shows that an agent needs no more. The root is a small file system with what Python needs of this
machine, copies of the `--file`s that only the command's account can read, and ``--data``, the one directory that can
be written. The paths are those of outside; what is on the way to them need not be open to nobody, as /root is not.

Where the lab has a user namespace there is no account but the user's own: then that stays, without capabilities.
Invariant: the process id stays, and what cannot be done ends it before the command runs.
Held by ``tests/lab/test_confine.py``.
"""

from __future__ import annotations

import argparse
import ctypes
import os
import shutil
from pathlib import Path

TYPE_CHECKING = False  # `typing` would double the start time
if TYPE_CHECKING:
    from collections.abc import Iterable

NOBODY = 65534
ROOT = Path("/run/confined")

# linux/mount.h, linux/sched.h, linux/prctl.h, linux/securebits.h; the system call has one number on all machines.
_MS_BIND, _MS_REC, _MS_PRIVATE = 0x1000, 0x4000, 1 << 18
_CLONE_NEWNS = 0x20000
_MOUNT_SETATTR, _AT_FDCWD, _AT_RECURSIVE, _MOUNT_ATTR_RDONLY = 442, -100, 0x8000, 1
_PR_CAPBSET_DROP, _PR_SET_SECUREBITS, _PR_SET_NO_NEW_PRIVS = 24, 28, 38
_SECBIT_NOROOT_AND_LOCKED = 3
_SYSTEM = ("bin", "sbin", "lib", "lib32", "lib64", "usr", "etc", "proc", "dev")

_libc = ctypes.CDLL(None, use_errno=True)


def _check(result: int, what: str) -> None:
    if result:
        number = ctypes.get_errno()
        raise OSError(number, f"{what}: {os.strerror(number)}")


def _mount(source: str, target: Path, kind: str, flags: int, options: str = "") -> None:
    arguments = (source.encode(), os.fsencode(target), kind.encode(), ctypes.c_ulong(flags), options.encode())
    _check(_libc.mount(*arguments), f"mount {target}")


def _set_read_only(target: Path, read_only: bool, flags: int = 0) -> None:
    """Make a mount read-only (and those below it, with AT_RECURSIVE), or writable."""
    attributes = (ctypes.c_uint64 * 4)(_MOUNT_ATTR_RDONLY * read_only, _MOUNT_ATTR_RDONLY * (not read_only), 0, 0)
    done = _libc.syscall(
        ctypes.c_long(_MOUNT_SETATTR), _AT_FDCWD, os.fsencode(target), flags, attributes, ctypes.c_size_t(32)
    )
    _check(done, f"mount_setattr {target}")


def _bind(path: Path, root: Path) -> Path:
    """Show the directory `path` below `root`, under its name of outside."""
    target = root / path.relative_to("/")
    target.mkdir(parents=True, exist_ok=True)
    _mount(str(path), target, "", _MS_BIND | _MS_REC)
    return target


def make_root(trees: Iterable[Path], files: Iterable[Path], data: Path, owner: int) -> Path:
    """Make the new root in a mount namespace of its own, and return it."""
    _check(_libc.unshare(_CLONE_NEWNS), "unshare")
    _mount("none", Path("/"), "", _MS_REC | _MS_PRIVATE)
    ROOT.mkdir(exist_ok=True)
    _mount("tmpfs", ROOT, "tmpfs", 0, "mode=755")
    for name in _SYSTEM:
        path = Path("/", name)
        if path.is_symlink():
            (ROOT / name).symlink_to(path.readlink())
        elif path.is_dir():
            _bind(path, ROOT)
    bound: list[Path] = [Path("/usr")]
    for tree in sorted({path for given in trees for path in (given, given.resolve())}):
        if not any(tree.is_relative_to(other) for other in bound):
            _bind(tree, ROOT)
            bound.append(tree)
    for file in files:
        copy = ROOT / file.relative_to("/")
        copy.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(file, copy)
        os.chown(copy, owner, owner)
        copy.chmod(0o400)
    data.mkdir(mode=0o700, parents=True, exist_ok=True)
    if not os.path.ismount(data):
        os.chown(data, owner, owner)
    writable = _bind(data, ROOT)
    _set_read_only(ROOT, True, _AT_RECURSIVE)
    _set_read_only(writable, False)
    return ROOT


def drop_rights(owner: int) -> None:
    """Become `owner` for good, where that is another account, and give up every capability at the next exec."""
    capabilities = int(Path("/proc/sys/kernel/cap_last_cap").read_text()) + 1
    for capability in range(capabilities):
        _check(_libc.prctl(_PR_CAPBSET_DROP, capability, 0, 0, 0), "prctl")
    _check(_libc.prctl(_PR_SET_SECUREBITS, _SECBIT_NOROOT_AND_LOCKED, 0, 0, 0), "prctl")
    _check(_libc.prctl(_PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0), "prctl")
    if owner != os.getuid():
        os.setgroups([])
        os.setresgid(owner, owner, owner)
        os.setresuid(owner, owner, owner)


def main() -> None:
    """Confine this process and run the command in it."""
    parser = argparse.ArgumentParser(prog="confine.py")
    parser.add_argument("--owner", type=int, default=NOBODY, help="account to run as")
    parser.add_argument("--tree", action="append", type=Path, default=[], help="directory that can be read")
    parser.add_argument("--file", action="append", type=Path, default=[], help="file that only the command can read")
    parser.add_argument("--data", type=Path, required=True, help="directory that can be written")
    parser.add_argument("argv", nargs="+")
    args = parser.parse_args()
    root = make_root(args.tree, args.file, args.data, args.owner)
    os.chroot(root)
    os.chdir("/")
    drop_rights(args.owner)
    os.execv(args.argv[0], args.argv)


if __name__ == "__main__":
    main()
