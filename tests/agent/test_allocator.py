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


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="glibc's malloc")
def test_what_is_not_needed_is_given_back() -> None:
    """What nothing but itself refers to is the system's again, also below something that is still in use."""
    freed = subprocess.run([sys.executable, "-c", HOLES], capture_output=True, check=True, text=True).stdout
    assert int(freed) > 9_000_000
