"""The bearer token of a configuration, fresh from its file.

Asked by the client before every request. Bound service account tokens are replaced on disk by the kubelet before they
expire; a process that kept its first one would be refused after an hour. Held by ``tests/kube/test_token.py``.
"""

from __future__ import annotations

import logging

from sitegrid.kube.config import Config

log = logging.getLogger(__name__)


class Token:
    """Follows `Config.token_file`, or gives the fixed `Config.token`."""

    def __init__(self, config: Config) -> None:
        self._file = config.token_file
        self._token = config.token or ""
        self._seen: tuple[int, int, int] | None = None

    def current(self) -> str:
        """Return the token to send, "" for none; one `stat`, and a read only when the file is another."""
        if self._file is not None:
            try:
                stat = self._file.stat()
                version = (stat.st_mtime_ns, stat.st_ino, stat.st_size)
                if version != self._seen:
                    self._token = self._file.read_text().strip()
                    self._seen = version
            except (OSError, UnicodeDecodeError) as error:
                # The old token may still be good, and the server says so if not.
                log.warning("token file %s cannot be read: %s", self._file, error)
        return self._token
