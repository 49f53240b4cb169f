"""Asking a cluster from the command line: kubectl's options, and failures in one sentence each.

Shared by the subcommands that ask the API server. Held by ``tests/cli/test_cluster.py``.
"""

from __future__ import annotations

import os
import ssl
from typing import TYPE_CHECKING, Any, TypeVar

from sitegrid.cli.errors import CommandError

if TYPE_CHECKING:
    import argparse
    from collections.abc import Awaitable, Callable

    from sitegrid.kube.client import Client
    from sitegrid.kube.config import Config
    from sitegrid.kube.errors import ApiError, Unreachable
    from sitegrid.kube.resources import Resource

T = TypeVar("T")


def add_cluster_options(parser: argparse.ArgumentParser) -> None:
    """Add the options that say which cluster, as kubectl has them."""
    parser.add_argument("--kubeconfig", metavar="FILE", help="how to reach the API server (default: as kubectl does)")
    parser.add_argument("--context", metavar="NAME", help="context of the kubeconfig to use")


def cluster_config(args: argparse.Namespace) -> Config:
    """Return the configuration that the options name. Raises `CommandError`."""
    from sitegrid.kube.config import ConfigError, load_config

    try:
        return load_config(args.kubeconfig, args.context)
    except ConfigError as error:
        raise CommandError(str(error)) from error


def ask_cluster(args: argparse.Namespace, question: Callable[[Config], Awaitable[T]]) -> T:
    """Return the answer of `question`; what the API server, or the way to it, has against it is a `CommandError`."""
    import asyncio

    from sitegrid.kube.errors import ApiError, DecodeError, PluginFailed, Unreachable

    config = cluster_config(args)

    async def ask() -> T:
        return await question(config)

    try:
        return asyncio.run(ask())
    except PluginFailed as error:
        raise CommandError(str(error)) from error
    except Unreachable as error:
        raise CommandError(
            f"the API server {config.server} cannot be reached: {_cause(error)}; are kubeconfig and context right?"
        ) from error
    except ApiError as error:
        raise CommandError(_refusal(error)) from error
    except DecodeError as error:
        raise CommandError(str(error)) from error


def _cause(error: Unreachable) -> str:
    """Return why the API server cannot be reached, without the client library's own words where there are others."""
    cause = getattr(error.__cause__, "os_error", None) or error.__cause__
    if isinstance(cause, ssl.SSLCertVerificationError):
        return f"its certificate is not to be trusted: {cause.verify_message}"
    if isinstance(cause, OSError) and cause.errno is not None and cause.errno > 0 and type(cause) is not OSError:
        return os.strerror(cause.errno)
    if isinstance(cause, OSError) and cause.strerror:
        return cause.strerror
    return str(cause or error) or type(cause).__name__


async def get_named(client: Client, resource: Resource, kind: str, namespace: str, name: str) -> dict[str, Any]:
    """Return an object that the user has named. Raises CommandError where it is not there, ApiError, Unreachable."""
    from sitegrid.kube.errors import ApiError

    try:
        return await client.get(resource, name, namespace)
    except ApiError as error:
        if error.not_found:
            raise not_found(error, kind, namespace, name) from error
        raise


def not_found(error: ApiError, kind: str, namespace: str, name: str) -> CommandError:
    """Return what to say where the API server has not found an object, or not even its kind."""
    if not (error.body.get("details") or {}).get("name"):
        option = " --superedge" if "." in kind else ""
        return CommandError(
            f"the cluster has no kind {kind}: install it with `sitegrid crds{option} | kubectl apply -f -`"
        )
    return CommandError(
        f"there is no {kind} {name} in namespace {namespace}; `kubectl get {kind.lower()} -A` lists those of all"
    )


def _refusal(error: ApiError) -> str:
    if error.status == 401:
        return "the API server does not know this user: the kubeconfig's token or certificate is wrong or has expired"
    return f"the API server refuses ({error.reason or error.status}): {error.message}"
