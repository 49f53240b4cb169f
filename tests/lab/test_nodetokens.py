"""Whose a kubelet's token is."""

from __future__ import annotations

import json
import urllib.request
from typing import Any

from sitegrid.lab.nodetokens import NodeTokens


def asked(port: int, token: str) -> dict[str, Any]:
    """Return the answer to a TokenReview as the API server sends it."""
    review = {"apiVersion": "authentication.k8s.io/v1", "kind": "TokenReview", "spec": {"token": token}}
    request = urllib.request.Request(f"http://127.0.0.1:{port}/", json.dumps(review).encode())
    with urllib.request.build_opener(urllib.request.ProxyHandler({})).open(request, timeout=10) as answer:
        found: dict[str, Any] = json.load(answer)
    return found


def test_a_token_is_its_nodes() -> None:
    """The API server is told the user that the Node authorizer knows, by a whole TokenReview."""
    tokens = NodeTokens()
    tokens.of("b")
    server = tokens.serve("127.0.0.1:0")
    try:
        answer = asked(server.server_address[1], tokens.of("a"))
    finally:
        server.shutdown()
        server.server_close()
    assert (answer["apiVersion"], answer["kind"]) == ("authentication.k8s.io/v1", "TokenReview")
    assert answer["status"] == {
        "authenticated": True,
        "user": {"username": "system:node:a", "groups": ["system:nodes"]},
    }


def test_what_was_not_issued_is_nobodys() -> None:
    """Unknown and empty tokens are refused."""
    tokens = NodeTokens()
    tokens.of("a")
    assert [tokens.review(token) for token in ("", "x", "ü")] == [{"authenticated": False}] * 3


def test_a_node_keeps_its_token() -> None:
    """Asked twice it is the same, so what the node's agent has kept for it stays the kubelet's; nodes differ."""
    tokens = NodeTokens()
    assert tokens.of("a") == tokens.of("a") != tokens.of("b")
