"""How slow a WAN is made: delay, jitter, loss and rate, as the user writes them and as the relay takes them.

`sitegrid lab wan slow` reads it, `Lab.slow_wan` sends it, and `slowlink.py` does it. Invariant: a `Slowness` that
exists makes sense. Held by ``tests/lab/test_slowness.py``.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Final

from sitegrid.lab.errors import LabError

LONGEST_DELAY: Final = 10.0
"""Seconds one way; to the moon it is 1.3."""

_NUMBER: Final = r"([0-9]+(?:\.[0-9]+)?)"
_TIME: Final = re.compile(_NUMBER + "(ms|s)")
_SHARE: Final = re.compile(_NUMBER + "(%)")
_RATE: Final = re.compile(_NUMBER + "(kbit|mbit)")
_UNITS: Final = {"ms": 0.001, "s": 1.0, "%": 0.01, "kbit": 1e3, "mbit": 1e6}


class SlownessError(LabError):
    """A slowness that means nothing, and why."""


@dataclass(frozen=True, slots=True)
class Slowness:
    """Of one direction: seconds of `delay`, more or less by `jitter`; the share `loss` of packets; `rate` in bit/s.

    0 is none of it, for the rate no limit. Raises `SlownessError`.
    """

    delay: float = 0.0
    jitter: float = 0.0
    loss: float = 0.0
    rate: float = 0.0

    def __post_init__(self) -> None:
        """Refuse what means nothing."""
        if self.delay > LONGEST_DELAY:
            raise SlownessError(f"a delay of {self.delay:g} s is too long: use at most {LONGEST_DELAY:g}s")
        if self.jitter > self.delay:
            raise SlownessError("the jitter is larger than the delay: a packet cannot arrive before it is sent")
        if self.loss >= 1:
            raise SlownessError("a loss of 100% leaves nothing: use `lab wan cut`")
        if not (self.delay or self.loss or self.rate):
            raise SlownessError("say what is slow: --delay, --loss or --rate")

    def __str__(self) -> str:
        """Return it in the user's words."""
        jitter = f" ±{self.jitter * 1e3:g}ms" if self.jitter else ""
        parts = [
            f"{self.delay * 1e3:g}ms{jitter}" if self.delay else "",
            f"{self.loss * 100:g}% loss" if self.loss else "",
            f"{self.rate / 1e3:g}kbit" if self.rate else "",
        ]
        return ", ".join(filter(None, parts))


def parse_slowness(delay: str = "", jitter: str = "", loss: str = "", rate: str = "") -> Slowness:
    """Return what the options of `lab wan slow` say, empty where they were not given. Raises `SlownessError`."""
    return Slowness(
        _parse(_TIME, "--delay", delay, "a time such as 300ms or 1.5s"),
        _parse(_TIME, "--jitter", jitter, "a time such as 50ms"),
        _parse(_SHARE, "--loss", loss, "a share such as 5%"),
        _parse(_RATE, "--rate", rate, "a rate above 0 such as 50kbit or 2mbit", zero=False),
    )


def _parse(pattern: re.Pattern[str], option: str, text: str, wanted: str, *, zero: bool = True) -> float:
    if not text:
        return 0.0
    match = pattern.fullmatch(text)
    value = float(match[1]) * _UNITS[match[2]] if match else 0.0
    if match is None or not (value or zero):
        raise SlownessError(f"{option} {text}: use {wanted}")
    return value
