"""What is said where a cluster cannot be asked, or refuses."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from sitegrid.cli.cluster import not_found
from sitegrid.cli.main import main
from sitegrid.kube.client import Client
from sitegrid.kube.errors import ApiError
from tests.support.controlplane import free_port

_KUBECONFIG = """
current-context: a
contexts: [{name: a, context: {cluster: a, user: a}}]
clusters: [{name: a, cluster: {server: "SERVER"}}]
users: [{name: a, user: {token: secret}}]
"""


@pytest.fixture
def kubeconfig(tmp_path: Path) -> str:
    """Return a kubeconfig of an API server that nobody has started."""
    path = tmp_path / "kubeconfig"
    path.write_text(_KUBECONFIG.replace("SERVER", f"https://127.0.0.1:{free_port()}"))
    return str(path)


@pytest.mark.parametrize("words", [["explain", "dg/web", "hz"], ["explain", "sg", "web", "hz"], ["migrate"]])
def test_an_api_server_that_is_not_there(
    words: list[str], kubeconfig: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """The sentence names the address and the reason, in words that are not the client library's."""
    assert main([*words, "--kubeconfig", kubeconfig]) == 1
    error = capsys.readouterr().err
    assert error.startswith("error: the API server https://127.0.0.1:")
    assert error.endswith("cannot be reached: Connection refused; are kubeconfig and context right?\n")


@pytest.mark.parametrize("command", [["explain", "web", "hz"], ["migrate"], ["controller"]])
@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--kubeconfig", "/no/such"], "kubeconfig /no/such: No such file"),
        (["--context", "b"], "contexts has no 'b'"),
    ],
)
def test_a_kubeconfig_that_cannot_be_used(
    command: list[str],
    options: list[str],
    said: str,
    kubeconfig: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """All commands that ask a cluster say the same."""
    monkeypatch.setenv("KUBECONFIG", kubeconfig)
    assert main([*command, *options]) == 1
    error = capsys.readouterr().err
    assert said in error
    assert error.count("\n") == 1


@pytest.mark.parametrize(
    ("refusal", "said"),
    [
        (
            ApiError(403, "Forbidden", 'deploymentgrids "web" is forbidden: User "bob" cannot get it'),
            'the API server refuses (Forbidden): deploymentgrids "web" is forbidden: User "bob" cannot get it',
        ),
        (ApiError(401, "Unauthorized", "Unauthorized"), "the API server does not know this user: the kubeconfig's"),
        (
            ApiError(404, "NotFound", "the server could not find the requested resource"),
            "no kind DeploymentGrid: ins",
        ),
    ],
)
def test_a_refusal_says_whose_it_is(
    refusal: ApiError, said: str, kubeconfig: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """RBAC's own sentence, a token that is not known, and a kind that is not installed."""

    async def get(*_: Any, **__: Any) -> None:
        raise refusal

    monkeypatch.setattr(Client, "get", get)
    assert main(["explain", "web", "hz", "--kubeconfig", kubeconfig]) == 1
    error = capsys.readouterr().err
    assert said in error
    assert error.count("\n") == 1


def test_what_is_not_there_can_be_looked_for() -> None:
    """An object of a kind that is installed, and SuperEdge's kinds, which have another command."""
    error = ApiError.from_status({"code": 404, "reason": "NotFound", "details": {"name": "web"}})
    assert str(not_found(error, "ServiceGrid", "shop", "web")) == (
        "there is no ServiceGrid web in namespace shop; `kubectl get servicegrid -A` lists those of all"
    )
    assert "crds --superedge |" in str(not_found(ApiError(404), "ServiceGrid.superedge.io", "shop", "web"))
