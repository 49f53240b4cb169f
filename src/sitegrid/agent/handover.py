"""The handover: an agent that begins takes over from the one that runs, with the very sockets that listen.

A data directory is one agent's at a time: whoever serves from it holds its lock (flock(2)). An agent that finds it
locked asks the holder, at a Unix socket in that directory. The holder ends what it serves, writes what it knows, and
sends lock and sockets (unix(7), SCM_RIGHTS). Who connects in between waits in their queue and is never refused, and
there is no moment in which two agents serve or write. Then the former holder stands by until it is told to end; where
the new one ends before that, it begins again. In the same way an agent begins again by itself, in its own process
(execve(2) keeps what is inheritable): after a fault of its own, or when it is told to.

Sockets are not shared by port (SO_REUSEPORT): the queue of one that closes would be reset, and any process of the
same account could join. Here that takes the right to open the directory (0700), and the agent's own account or
root's.

Called by `run`. Held by ``tests/agent/test_handover.py`` and ``tests/e2e/test_handover.py``.
"""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import json
import logging
import os
import socket
import struct
from collections.abc import Iterable
from typing import Any, Final

from sitegrid.agent.snapshot.directory import open_directory

_log = logging.getLogger(__name__)

PATIENCE: Final = 30.0
"""Seconds that an agent waits for the one that holds the directory to hand over."""
_RETRY: Final = 0.1
_NAME: Final = "handover"
"""The Unix socket in the data directory."""
_CREDENTIALS: Final = struct.Struct("3i")
"""Process, user and group of a peer (unix(7), SO_PEERCRED)."""
ROOT: Final = 0
_MOST_FILES: Final = 64
_LOCK, _DOOR, _BEFORE, _LISTEN = "lock", "door", "before", "listen "


class OccupiedError(Exception):
    """The data directory is another agent's, which does not hand over."""


class Handover:
    """What goes from one agent to the next, as open files by their role; closed by `close` only.

    The roles: the lock; the socket at which successors ask; the connections to those who stand by; and, for each
    address as it was asked for, the sockets that listen there.
    """

    def __init__(self) -> None:
        self.live = False
        """Whether the agent before this one served until a moment ago, and has written all that it knew."""
        self.wanted = asyncio.Event()
        """Set when the agent has to end for the next one."""
        self._files: dict[str, list[int]] = {}
        self._successor: socket.socket | None = None

    async def begin(self, path: str) -> None:
        """Make the data directory this agent's. Raises `OccupiedError`, after `PATIENCE` seconds.

        Where it cannot be opened there is nothing to be taken over; the disk tells of that.
        """
        if _LOCK in self._files:
            return
        try:
            directory = open_directory(path)
        except OSError:
            return
        try:
            locked = await self._lock(directory)
        except BaseException:
            os.close(directory)
            raise
        if locked:
            self._files[_LOCK] = [directory]
            self._open_door(directory)
        else:
            os.close(directory)
            _log.info("took over from the agent before")

    async def _lock(self, directory: int) -> bool:
        """Lock the directory; False where another agent has handed over what it had, the lock too."""
        deadline = asyncio.get_running_loop().time() + PATIENCE
        while not _locked(directory):
            if await self._take_over(directory, deadline):
                return False
            if asyncio.get_running_loop().time() > deadline:
                raise OccupiedError("the data directory is another agent's, which does not hand over")
            await asyncio.sleep(_RETRY)
        return True

    def _open_door(self, directory: int) -> None:
        door = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        try:
            # What is there was left by an agent that was killed.
            with contextlib.suppress(FileNotFoundError):
                os.unlink(_NAME, dir_fd=directory)
            door.bind(_address(directory))
            door.listen()
        except OSError as error:
            _log.debug("no agent can take over from this one: %s", error)
            door.close()
        else:
            self._files[_DOOR] = [door.detach()]

    async def _take_over(self, directory: int, deadline: float) -> bool:
        """Ask the agent that holds the lock; False where there is none that answers."""
        with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as connection:
            connection.setblocking(False)
            try:
                connection.connect(_address(directory))
                async with asyncio.timeout_at(deadline):
                    await _readable(connection)
                message, files, _, _ = socket.recv_fds(connection, 65536, _MOST_FILES, socket.MSG_CMSG_CLOEXEC)
            except (OSError, TimeoutError):
                return False
            if not message:
                return False
            left = iter(files)
            self._files = {role: [next(left) for _ in range(count)] for role, count in json.loads(message).items()}
            self._files.setdefault(_BEFORE, []).append(connection.detach())
            self.live = True
            return True

    # The sockets that listen.
    def listening(self, address: str) -> list[socket.socket]:
        """Return copies of the sockets that listen on `address`, a URL as it was asked for; none at first."""
        return [socket.socket(fileno=os.dup(file)) for file in self._files.get(_LISTEN + address, ())]

    def keep(self, address: str, sockets: Iterable[Any]) -> None:
        """Keep copies of the sockets that listen on `address`."""
        self._files.setdefault(_LISTEN + address, [os.dup(sock.fileno()) for sock in sockets])

    def drop_others(self, addresses: Iterable[str]) -> None:
        """Close what listens on other addresses than these: an agent before this one had other options."""
        wanted = {_LISTEN + address for address in addresses}
        for role in [role for role in self._files if role.startswith(_LISTEN) and role not in wanted]:
            for file in self._files.pop(role):
                os.close(file)

    # The successor.
    def watch(self) -> None:
        """Have `wanted` set when a successor asks."""
        for door in self._files.get(_DOOR, ()):
            os.set_blocking(door, False)
            asyncio.get_running_loop().add_reader(door, self._asked, door)

    def unwatch(self) -> None:
        """Answer no successor any more: it waits, or asks who comes next."""
        for door in self._files.get(_DOOR, ()):
            asyncio.get_running_loop().remove_reader(door)

    def _asked(self, door: int) -> None:
        listener = socket.socket(fileno=door)
        try:
            connection, _ = listener.accept()
        except OSError:
            return
        finally:
            listener.detach()
        peer = connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _CREDENTIALS.size)
        if _CREDENTIALS.unpack(peer)[1] not in (ROOT, os.geteuid()):
            connection.close()
            return
        self.unwatch()
        self._successor = connection
        self.wanted.set()

    async def give(self, stop: asyncio.Event) -> None:
        """Hand everything to the successor, if there is one, and stand by until `stop` or until it is gone."""
        if self._successor is None:
            return
        successor, self._successor = self._successor, None
        with successor:
            files = [file for role in self._files.values() for file in role]
            message = json.dumps({role: len(found) for role, found in self._files.items()})
            try:
                successor.setblocking(True)  # one message, for which there is always room
                socket.send_fds(successor, [message.encode()], files)
            except OSError:
                return
            _log.info("another agent has taken over; standing by")
            waits = [asyncio.ensure_future(_readable(successor)), asyncio.ensure_future(stop.wait())]
            await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
            for wait in waits:
                wait.cancel()
            await asyncio.wait(waits)

    def close(self) -> None:
        """Close everything: who stands by learns that it has to begin again, else others may have the directory."""
        for file in (file for files in self._files.values() for file in files):
            os.close(file)
        self._files = {}
        if self._successor is not None:
            self._successor.close()

    # The next life of this process.
    def bequeath(self) -> str:
        """Have all files outlive execve(2), and return what `inherit` needs to know."""
        for file in (file for files in self._files.values() for file in files):
            os.set_inheritable(file, True)
        return json.dumps(self._files)

    def inherit(self, bequest: str) -> None:
        """Take over from this process's former life."""
        self._files = json.loads(bequest)
        for file in (file for files in self._files.values() for file in files):
            os.set_inheritable(file, False)


def _address(directory: int) -> str:
    """Return the address of the Unix socket: a path may have 107 bytes, and the directory's own may be longer."""
    return f"/proc/self/fd/{directory}/{_NAME}"


def _locked(directory: int) -> bool:
    """Lock the directory; False where another agent has. What knows no locks is anybody's."""
    try:
        fcntl.flock(directory, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError as error:
        _log.debug("the data directory cannot be locked: %s", error)
    return True


async def _readable(connection: socket.socket) -> None:
    """Wait for a message, or the end of the connection."""
    loop = asyncio.get_running_loop()
    readable = asyncio.Event()
    loop.add_reader(connection, readable.set)
    try:
        await readable.wait()
    finally:
        loop.remove_reader(connection)
