from __future__ import annotations

import subprocess
import sys

import pytest

HOLES = """
import os
from sitegrid.agent import allocator

def resident():
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")

class Ended:
    def __init__(self):
        self.itself = self
        self.buffer = b"x" * 100_000

connections = [Ended() for _ in range(100)]
del connections[:-1]  # The last one keeps the heap from shrinking by itself.
before = resident()
allocator.give_back()
print(before - resident())
"""


HEAPS = """
import ctypes
import threading
from sitegrid.agent import allocator

libc = ctypes.CDLL(None)
libc.fdopen.restype = ctypes.c_void_p
allocator.share_one_heap()
held = threading.Barrier(5)
kept = []
def work():
    kept.append([bytes(1000) for _ in range(1000)])
    held.wait()
threads = [threading.Thread(target=work) for _ in range(4)]
for thread in threads:
    thread.start()
held.wait()
out = ctypes.c_void_p(libc.fdopen(1, b"w"))
libc.malloc_info(0, out)
libc.fflush(out)
"""


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="glibc's malloc")
def test_threads_have_no_heaps_of_their_own() -> None:
    """What writes to the disk leaves no memory behind that nobody else can use."""
    told = subprocess.run([sys.executable, "-c", HEAPS], capture_output=True, check=True, text=True).stdout
    assert told.count("<heap nr=") == 1


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="glibc's malloc")
def test_what_is_not_needed_is_given_back() -> None:
    """What nothing but itself refers to is the system's again, also below something that is still in use."""
    freed = subprocess.run([sys.executable, "-c", HOLES], capture_output=True, check=True, text=True).stdout
    assert int(freed) > 9_000_000
