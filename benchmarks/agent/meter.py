"""CPU time and resident memory of one process, as the kernel counts them.

`/proc/PID/stat` counts in steps of 10 ms, which is too coarse for a cost of microseconds; the process's CPU clock
(clock_getcpuclockid(3)) counts in nanoseconds and includes threads that have ended. kube-proxy runs `nft` as a child
for every change of rules: that is part of its cost, so children it has waited for are included, to 10 ms.
"""

from __future__ import annotations

import os
import time
from pathlib import Path


class Meter:
    """Reads the process `pid` (as the host sees it); raises OSError once it is gone."""

    def __init__(self, pid: int) -> None:
        self._pid = pid
        # linux/posix-timers.h, MAKE_PROCESS_CPUCLOCK with CPUCLOCK_SCHED; what clock_getcpuclockid(3) returns.
        self._clock = (~pid << 3) | 2

    def cpu(self) -> float:
        """Return the CPU seconds that it and its finished children have used so far."""
        return time.clock_gettime(self._clock) + self._children()

    def memory(self) -> int:
        """Return its resident memory (VmRSS) in bytes."""
        return self._status("VmRSS")

    def peak_memory(self) -> int:
        """Return the most that it ever had resident (VmHWM) in bytes."""
        return self._status("VmHWM")

    def _children(self) -> float:
        # proc_pid_stat(5): fields 16 and 17, counted behind the command's name, which may contain anything.
        fields = (
            Path(f"/proc/{self._pid}/stat").read_text(encoding="ascii", errors="replace").rpartition(")")[2].split()
        )
        return (int(fields[13]) + int(fields[14])) / os.sysconf("SC_CLK_TCK")

    def _status(self, name: str) -> int:
        for line in Path(f"/proc/{self._pid}/status").read_text(encoding="utf-8", errors="replace").splitlines():
            if line.startswith(f"{name}:"):
                return int(line.split()[1]) * 1024
        raise OSError(f"process {self._pid} has ended")
