"""Credentials from a program of the kubeconfig: a real script stands for the cloud's."""

from __future__ import annotations

import asyncio
import base64
import json
import ssl
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
import yaml
from aiohttp import web

from sitegrid.cli.main import main
from sitegrid.kube.client import Client
from sitegrid.kube.config import Config, ConfigError, load_config
from sitegrid.kube.errors import ApiError, PluginFailed
from sitegrid.kube.resources import NODES
from sitegrid.lab.pki import Authority

V1, V1BETA1 = "client.authentication.k8s.io/v1", "client.authentication.k8s.io/v1beta1"
_SCRIPT = """#!/bin/sh
echo "$KUBERNETES_EXEC_INFO" >> {directory}/asked
echo "$0 $* $FLAVOUR" >> {directory}/runs
n=$(wc -l < {directory}/runs)
cat {directory}/answer-$n 2>/dev/null || cat {directory}/answer
"""


class Login:
    """A script that prints prepared answers, and the kubeconfig that names it."""

    def __init__(self, directory: Path, server: str) -> None:
        self.directory = directory
        self.server = server
        (directory / "bin").mkdir()
        self.script = directory / "bin" / "login"
        self.script.write_text(_SCRIPT.format(directory=directory))
        self.script.chmod(0o755)

    def answers(self, *statuses: dict[str, Any], version: str = V1) -> None:
        """Print these one after the other, and the last one for ever."""
        for number, status in enumerate(statuses, start=1):
            text = json.dumps({"kind": "ExecCredential", "apiVersion": version, "status": status})
            for name in (f"answer-{number}", "answer"):
                (self.directory / name).write_text(text)

    def config(
        self, user: dict[str, Any] | None = None, cluster: dict[str, Any] | None = None, **exec_: Any
    ) -> Config:
        """Return the configuration of a kubeconfig with this script."""
        return load_config(self.kubeconfig(user, cluster, **exec_))

    def kubeconfig(
        self, user: dict[str, Any] | None = None, cluster: dict[str, Any] | None = None, **exec_: Any
    ) -> str:
        """Write the kubeconfig."""
        section = {"apiVersion": V1, "command": "./bin/login", "interactiveMode": "Never", **exec_}
        document = {
            "current-context": "c",
            "contexts": [{"name": "c", "context": {"cluster": "c", "user": "c"}}],
            "clusters": [{"name": "c", "cluster": {"server": self.server, **(cluster or {})}}],
            "users": [{"name": "c", "user": {"exec": section, **(user or {})}}],
        }
        path = self.directory / "kubeconfig"
        path.write_text(yaml.safe_dump(document))
        return str(path)

    @property
    def runs(self) -> list[str]:
        """Return a line for each run."""
        file = self.directory / "runs"
        return file.read_text().splitlines() if file.exists() else []


@pytest.fixture
def login(tmp_path: Path, server: Any) -> Login:
    """Give a script for the scripted server."""
    return Login(tmp_path, server.url)


def _sent(server: Any) -> list[str]:
    return [headers["Authorization"].removeprefix("Bearer ") for headers in server.headers]


@pytest.mark.parametrize("version", [V1, V1BETA1])
async def test_the_token_that_it_prints_is_sent(login: Login, server: Any, version: str) -> None:
    """It is run once, with its arguments and environment, and told what is asked of it."""
    login.answers({"token": "t"}, version=version)
    config = login.config(apiVersion=version, args=["get", "token"], env=[{"name": "FLAVOUR", "value": "sweet"}])
    for _ in range(2):
        server.then_json({})
    async with Client(config) as client:
        await asyncio.gather(client.get(NODES, "a"), client.get(NODES, "b"))
    assert _sent(server) == ["t", "t"]
    assert login.runs == [f"{login.script} get token sweet"]
    asked = json.loads((login.directory / "asked").read_text())
    assert asked == {"kind": "ExecCredential", "apiVersion": version, "spec": {"interactive": False}}


async def test_what_has_expired_is_asked_for_again(login: Login, server: Any) -> None:
    """A token with a time to come is used again, one whose time is over is not."""
    now = datetime.now(UTC)
    times = [(now + timedelta(hours=hours)).strftime("%Y-%m-%dT%H:%M:%SZ") for hours in (-1, 1)]
    login.answers(*({"token": str(number), "expirationTimestamp": time} for number, time in enumerate(times)))
    async with Client(login.config()) as client:
        for _ in range(3):
            server.then_json({})
            await client.get(NODES, "n")
    assert _sent(server) == ["0", "1", "1"]


async def test_what_the_api_server_no_longer_takes_is_replaced(login: Login, server: Any) -> None:
    """A request that is refused with 401 is sent once more, with what the next run gives."""
    login.answers({"token": "old"}, {"token": "new"})
    server.then_json({}, status=401)
    for _ in range(2):
        server.then_json({"kind": "Node"})
    async with Client(login.config()) as client:
        assert await client.get(NODES, "n") == {"kind": "Node"}
        await client.get(NODES, "n")
    assert _sent(server) == ["old", "new", "new"]


async def test_a_user_who_is_not_known_is_refused_once(login: Login, server: Any) -> None:
    """A second 401 is the answer."""
    login.answers({"token": "t"})
    for _ in range(2):
        server.then_json({}, status=401)
    async with Client(login.config()) as client:
        with pytest.raises(ApiError) as raised:
            await client.get(NODES, "n")
    assert (raised.value.status, len(login.runs)) == (401, 2)


async def test_it_is_told_of_the_cluster_where_it_wants_to_know(login: Login, server: Any) -> None:
    """Address, CA and the cluster's own section for plugins."""
    login.answers({"token": "t"})
    ca = Authority().pair.certificate
    about = {"server": login.server, "certificate-authority-data": base64.b64encode(ca).decode()}
    extension = {"name": "client.authentication.k8s.io/exec", "extension": {"audience": "edge"}}
    server.then_json({})
    async with Client(login.config(cluster={**about, "extensions": [extension]}, provideClusterInfo=True)) as client:
        await client.get(NODES, "n")
    asked = json.loads((login.directory / "asked").read_text())
    assert asked["spec"]["cluster"] == {**about, "config": {"audience": "edge"}}


def test_credentials_of_the_kubeconfigs_own_win(login: Login) -> None:
    """As for kubectl: where there is a token, nothing is run."""
    assert login.config({"token": "t"}).exec_plugin is None


async def test_its_client_certificate_is_shown(tmp_path: Path) -> None:
    """And after a 401 the next one, on a new connection."""
    authority = Authority()
    pair = authority.server("server", [], ["127.0.0.1"])
    (tmp_path / "server.pem").write_bytes(pair.certificate + pair.key)
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH, cadata=authority.pair.certificate.decode())
    context.load_cert_chain(tmp_path / "server.pem")
    context.verify_mode = ssl.CERT_REQUIRED
    context.verify_flags &= ~ssl.VERIFY_X509_STRICT

    async def answer(request: web.Request) -> web.Response:
        assert request.transport is not None
        name = request.transport.get_extra_info("peercert")["subject"][0][0][1]
        return web.json_response({"subject": name}, status=200 if name == "new" else 401)

    app = web.Application()
    app.router.add_get("/{path:.*}", answer)
    runner = web.AppRunner(app, shutdown_timeout=0)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0, ssl_context=context).start()
    login = Login(tmp_path, f"https://127.0.0.1:{runner.addresses[0][1]}")
    users = [authority.client(name) for name in ("old", "new")]
    login.answers(
        *({"clientCertificateData": u.certificate.decode(), "clientKeyData": u.key.decode()} for u in users)
    )
    ca = base64.b64encode(authority.pair.certificate).decode()
    try:
        async with Client(login.config(cluster={"certificate-authority-data": ca})) as client:
            for _ in range(2):
                assert await client.request("GET", "/x") == {"subject": "new"}
    finally:
        await runner.cleanup()
    assert len(login.runs) == 2


@pytest.mark.parametrize(
    ("script", "message"),
    [
        ("exit 3", r"login' ended with exit code 3: log in"),
        ("echo secret", r"printed no ExecCredential"),
        (f'echo \'{{"kind": "ExecCredential", "apiVersion": "{V1}"}}\'', r"printed no ExecCredential"),
        (
            f'echo \'{{"kind": "ExecCredential", "apiVersion": "{V1BETA1}", "status": {{}}}}\'',
            r"v1 and printed '.*v1beta1'",
        ),
        (f'echo \'{{"kind": "ExecCredential", "apiVersion": "{V1}", "status": {{}}}}\'', "neither a token"),
        (
            f'echo \'{{"kind": "ExecCredential", "apiVersion": "{V1}", "status": {{"clientKeyData": "secret"}}}}\'',
            "neither a token",
        ),
        (
            f'echo \'{{"kind": "ExecCredential", "apiVersion": "{V1}", "status": {{"token": "secret\\u00e9"}}}}\'',
            "cannot be sent",
        ),
    ],
)
async def test_what_is_no_credential_is_told(login: Login, script: str, message: str) -> None:
    """In a sentence without what it has printed, which may be a secret."""
    login.script.write_text(f"#!/bin/sh\n{script}\n")
    async with Client(login.config()) as client:
        with pytest.raises(PluginFailed, match=message) as raised:
            await client.get(NODES, "n")
    assert "secret" not in str(raised.value)


async def test_a_program_that_does_not_end_is_ended(login: Login, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is killed, so that the request ends."""
    monkeypatch.setattr("sitegrid.kube.execplugin.TIMEOUT", 0.1)
    login.script.write_text("#!/bin/sh\nexec sleep 1000\n")
    async with Client(login.config()) as client:
        with pytest.raises(PluginFailed, match="did not end"):
            await client.get(NODES, "n")


async def test_one_that_has_to_ask_needs_a_terminal(login: Login) -> None:
    """It is not run where nobody could answer."""
    async with Client(login.config(interactiveMode="Always")) as client:
        with pytest.raises(PluginFailed, match="no terminal"):
            await client.get(NODES, "n")
    assert login.runs == []


def test_one_that_is_missing_says_how_to_get_it(login: Login, capsys: pytest.CaptureFixture[str]) -> None:
    """The command line tells its name and the kubeconfig's own hint, and nothing of the API server."""
    path = login.kubeconfig(command="no-such-login", installHint="get it\nfrom the cloud")
    assert main(["explain", "web", "hz", "--kubeconfig", path]) == 1
    assert capsys.readouterr().err == (
        "error: the kubeconfig's exec plugin 'no-such-login' cannot be run (No such file or directory): "
        "get it from the cloud\n"
    )


@pytest.mark.parametrize(
    ("section", "message"),
    [
        ({"command": ""}, "no command"),
        ({"apiVersion": "client.authentication.k8s.io/v1alpha1"}, "v1alpha1"),
        ({"interactiveMode": None}, "interactiveMode None"),
        ({"interactiveMode": "Perhaps"}, "Never, IfAvailable, Always"),
        ({"env": [{"value": "x"}]}, "args or env"),
    ],
)
def test_a_section_that_is_no_plugins_is_refused(login: Login, section: dict[str, Any], message: str) -> None:
    """As by client-go, before anything is run; v1beta1 has a default for what v1 demands."""
    with pytest.raises(ConfigError, match=message):
        login.config(**section)
    plugin = login.config(apiVersion=V1BETA1, interactiveMode=None).exec_plugin
    assert plugin is not None
    assert plugin.interactive_mode == "IfAvailable"


def test_secrets_are_not_shown(login: Login) -> None:
    """Its environment may hold some."""
    assert "hidden" not in repr(login.config(env=[{"name": "PASSWORD", "value": "hidden"}]))
