"""What can go wrong between this process and an API server, as exceptions.

Raised by `sitegrid.kube.client` and everything above it; callers tell causes apart by the properties, never by
comparing messages. Invariant: an answer that is not a success is always raised, with the server's own words.
Held by ``tests/kube/test_errors.py`` and ``tests/kube/test_client.py``.
"""

from __future__ import annotations

from http import HTTPStatus
from typing import Any

import msgspec


class Unreachable(ConnectionError):
    """No complete answer came: refused, timed out, TLS not verified, or cut off. The request may have been done."""


class PluginFailed(Unreachable):
    """The program that the kubeconfig names for credentials gave none; the text says which, and what to do."""


class DecodeError(Exception):
    """The server sent something that is not what its API promises; the text names the object where it is known."""


class ApiError(Exception):
    """The server's refusal: a `metav1.Status` (or its like, made from the plain HTTP answer)."""

    def __init__(self, status: int, reason: str = "", message: str = "", body: dict[str, Any] | None = None) -> None:
        super().__init__(status, reason, message)
        self.status = status
        """HTTP status code; of an ERROR watch event the Status's own `code`."""
        self.reason = reason
        """Machine-readable word (`metav1.StatusReason`), "" where the server gave none."""
        self.message = message
        self.body: dict[str, Any] = body or {}
        """The whole Status, {} where the answer was not one."""

    def __str__(self) -> str:
        return f"{self.status} {self.reason}: {self.message}" if self.reason else f"{self.status}: {self.message}"

    @classmethod
    def from_status(cls, body: dict[str, Any], *, http_status: int = 0) -> ApiError:
        """Return the error that a decoded `metav1.Status` describes; `http_status` is used if it has no `code`."""
        return cls(
            int(body.get("code") or http_status or 500),
            str(body.get("reason") or ""),
            str(body.get("message") or ""),
            body,
        )

    @classmethod
    def from_answer(cls, http_status: int, data: bytes, retry_after: str | None = None) -> ApiError:
        """Return the error for an HTTP answer, whatever its body is; `retry_after` is that header's value."""
        try:
            body = msgspec.json.decode(data, type=dict[str, Any])
        except msgspec.DecodeError:
            body = {}
        if body.get("kind") == "Status":
            error = cls.from_status(body, http_status=http_status)
            error.status = http_status
        else:
            phrase = next((known.phrase for known in HTTPStatus if known == http_status), "")
            error = cls(http_status, "", data[:500].decode(errors="replace").strip() or phrase)
        if retry_after is not None and retry_after.strip().isdigit():
            error._retry_after = float(retry_after)
        return error

    _retry_after: float | None = None

    @property
    def retry_after(self) -> float | None:
        """Seconds that the server asked to wait (header or `details.retryAfterSeconds`), None if it did not."""
        if self._retry_after is not None:
            return self._retry_after
        seconds = (self.body.get("details") or {}).get("retryAfterSeconds")
        return float(seconds) if seconds else None

    @property
    def not_found(self) -> bool:
        """The object, or the whole resource type, does not exist."""
        return self.status == HTTPStatus.NOT_FOUND

    @property
    def already_exists(self) -> bool:
        """A create met an object of that name."""
        return self.status == HTTPStatus.CONFLICT and self.reason == "AlreadyExists"

    @property
    def conflict(self) -> bool:
        """The object changed since it was read, or another field manager owns a field."""
        return self.status == HTTPStatus.CONFLICT and not self.already_exists

    @property
    def gone(self) -> bool:
        """The resourceVersion or continue token is too old (reasons `Expired` and `Gone`): list again."""
        return self.status == HTTPStatus.GONE

    @property
    def invalid(self) -> bool:
        """The object broke the API's validation; sending it again unchanged will fail again."""
        return self.status == HTTPStatus.UNPROCESSABLE_ENTITY
