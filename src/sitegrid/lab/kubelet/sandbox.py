"""A pod's directory: the files that make a process see the pod's network, DNS, hosts and host name.

The worker writes it (`write`); `lab exec`, the demo and tests enter the pod by it (`enter_argv`). Everything needed
is in the directory, so entering works while the kubelet is down.

Rules for resolv.conf are Kubernetes' own (core/v1 PodSpec.dnsPolicy and dnsConfig; pkg/kubelet/network/dns/dns.go).
Held by ``tests/lab/test_kubelet_sandbox.py``.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

_NSSWITCH: Final = "passwd: files\ngroup: files\nhosts: files dns\n"
"""Without it the machine's own nsswitch.conf might name resolvers (mdns, resolve) that do not exist in a pod."""

# A script and not Python: it costs a few ms. `readlink -m`, because /etc/resolv.conf may be a link into /run, which
# in the lab is a file system of its own; the missing end of such a link is made there. A file that the machine
# does not have cannot be covered and is left out. In a user namespace only `hostname` may set the name.
_ENTER: Final = """
set -eu
for name in resolv.conf hosts nsswitch.conf; do
    target=$(readlink -m "/etc/$name")
    case "$target" in /run/*) [ -e "$target" ] || { mkdir -p "${target%/*}"; : > "$target"; } ;; esac
    [ ! -e "$target" ] || mount --bind "$1/$name" "$target"
done
hostname -F "$1/hostname" 2>/dev/null || cat "$1/hostname" 2>/dev/null > /proc/sys/kernel/hostname || :
shift
exec "$@"
"""


@dataclass(frozen=True, slots=True)
class DnsSettings:
    """What the kubelet's flags say about DNS: the cluster DNS server's address and the cluster domain."""

    server: str
    domain: str


def directory_name(namespace: str, name: str) -> str:
    """Return the name of a pod's directory (neither part can contain the underscore)."""
    return f"{namespace}_{name}"


def write(directory: Path, pod: Mapping[str, Any], *, netns: Path, address: str, dns: DnsSettings, node: str) -> None:
    """Write the sandbox's files for `pod` with `address` in `netns` on `node`."""
    directory.mkdir(parents=True, exist_ok=True)
    host_network = pod["spec"].get("hostNetwork", False)
    hostname = node if host_network else pod["spec"].get("hostname") or pod["metadata"]["name"][:63].rstrip("-.")
    files = {
        "netns": f"{netns}\n",
        "resolv.conf": resolv_conf(pod, dns),
        "hosts": hosts(pod, address, hostname, dns.domain),
        "hostname": f"{hostname}\n",
        "nsswitch.conf": _NSSWITCH,
    }
    for name, text in files.items():
        path = directory / name
        if not path.exists() or path.read_text() != text:  # a pod taken over may be entered at this moment
            path.write_text(text)


def resolv_conf(pod: Mapping[str, Any], dns: DnsSettings) -> str:
    """Return the pod's resolv.conf.

    ``ClusterFirst`` asks the cluster DNS with the cluster's search path; for host-network pods it means ``Default``
    unless they say ``ClusterFirstWithHostNet``. ``Default``, the node's own way to resolve, is the cluster DNS
    without search path here: a lab node has no other server. ``None`` has what dnsConfig brings.
    """
    spec, namespace = pod["spec"], pod["metadata"]["namespace"]
    policy = spec.get("dnsPolicy", "ClusterFirst")
    if policy == "ClusterFirst" and spec.get("hostNetwork"):
        policy = "Default"
    servers = [] if policy == "None" else [dns.server]
    searches: list[str] = []
    options: dict[str, str | None] = {}
    if policy in ("ClusterFirst", "ClusterFirstWithHostNet"):
        searches = [f"{namespace}.svc.{dns.domain}", f"svc.{dns.domain}", dns.domain]
        options = {"ndots": "5"}
    config = spec.get("dnsConfig") or {}
    servers += config.get("nameservers") or []
    searches += config.get("searches") or []
    options |= {option["name"]: option.get("value") for option in config.get("options") or []}
    lines = [f"nameserver {server}" for server in dict.fromkeys(servers)]
    if searches:
        lines.append("search " + " ".join(dict.fromkeys(searches)))
    if options:
        lines.append("options " + " ".join(f"{name}:{value}" if value else name for name, value in options.items()))
    return "".join(line + "\n" for line in lines)


def hosts(pod: Mapping[str, Any], address: str, hostname: str, domain: str) -> str:
    """Return the pod's hosts file: loopback, its own name (with its subdomain's full name), its hostAliases."""
    subdomain = pod["spec"].get("subdomain")
    names = (
        f"{hostname}.{subdomain}.{pod['metadata']['namespace']}.svc.{domain}\t{hostname}" if subdomain else hostname
    )
    lines = ["127.0.0.1\tlocalhost", "::1\tlocalhost ip6-localhost ip6-loopback", f"{address}\t{names}"]
    for alias in pod["spec"].get("hostAliases") or []:
        lines.append("\t".join([alias["ip"], *alias.get("hostnames", [])]))
    return "".join(line + "\n" for line in lines)


def enter_argv(pod_dir: Path, argv: Sequence[str]) -> list[str]:
    """Return the command line that runs `argv` in the pod of `pod_dir`.

    To be run inside the lab's mount and network (and user) namespaces, by its root. The process gets the pod's
    network, and mount and UTS namespaces of its own with the pod's resolv.conf, hosts and host name. Raises
    FileNotFoundError where there is no such pod.
    """
    netns = (pod_dir / "netns").read_text().strip()
    return [
        *("nsenter", f"--net={netns}", "--"),
        *("unshare", "--mount", "--uts", "--propagation", "private", "--"),
        *("/bin/sh", "-c", _ENTER, "sh", str(pod_dir)),
        *argv,
    ]
