"""What Kubernetes says about the shape of workload and Service specs: maps, lists, and how lists are merged.

Facts only, read from the struct tags ``json``, ``patchStrategy`` and ``patchMergeKey`` of k8s.io/api v0.36.3
(apps/v1, core/v1, meta/v1). Fields that are neither map nor list are left out, and so are the insides of lists that
are replaced whole. A field that is not in here (a newer Kubernetes has it) is no error: its shape is taken from the
values.

The strategy ``retainKeys`` is left out: it tells a client how to *make* a patch, not how one is applied. Held by
``tests/grid/test_strategicmerge.py``, against the real kubectl.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

DEPLOYMENT_SPEC: Final = "DeploymentSpec"
STATEFUL_SET_SPEC: Final = "StatefulSetSpec"
DAEMON_SET_SPEC: Final = "DaemonSetSpec"

FREE: Final = ""
"""The type of maps whose keys are the user's, and of everything unknown."""


@dataclass(frozen=True, slots=True)
class Field:
    """One field that holds a map or a list."""

    is_list: bool = False
    type: str = FREE
    """The type of the map, or of the list's items."""
    merged: bool = False
    """Lists: merged with the patch instead of replaced by it."""
    merge_key: str = ""
    """Merged lists: what tells the items apart; empty where the items themselves do (a set of strings)."""


_MAP: Final = Field()
_ATOMIC: Final = Field(is_list=True)
_SET: Final = Field(is_list=True, merged=True)


def _object(type_name: str) -> Field:
    return Field(type=type_name)


def _list_by(merge_key: str, type_name: str = FREE) -> Field:
    return Field(is_list=True, type=type_name, merged=True, merge_key=merge_key)


_CONTAINER: Final[Mapping[str, Field]] = {
    "command": _ATOMIC,
    "args": _ATOMIC,
    "ports": _list_by("containerPort"),
    "envFrom": _ATOMIC,
    "env": _list_by("name", "EnvVar"),
    "resources": _object("ResourceRequirements"),
    "resizePolicy": _ATOMIC,
    "restartPolicyRules": _ATOMIC,
    "volumeMounts": _list_by("mountPath"),
    "volumeDevices": _list_by("devicePath"),
    "livenessProbe": _object("Probe"),
    "readinessProbe": _object("Probe"),
    "startupProbe": _object("Probe"),
    "lifecycle": _object("Lifecycle"),
    "securityContext": _object("SecurityContext"),
}
"""An EphemeralContainer repeats a Container's fields (core/v1 types.go, EphemeralContainerCommon)."""

_TYPES: Final[Mapping[str, Mapping[str, Field]]] = {
    "DeploymentSpec": {
        "selector": _object("LabelSelector"),
        "template": _object("PodTemplateSpec"),
        "strategy": _object("DeploymentStrategy"),
    },
    "StatefulSetSpec": {
        "selector": _object("LabelSelector"),
        "template": _object("PodTemplateSpec"),
        "volumeClaimTemplates": _ATOMIC,
        "updateStrategy": _object("StatefulSetUpdateStrategy"),
        "persistentVolumeClaimRetentionPolicy": _MAP,
        "ordinals": _MAP,
    },
    "DaemonSetSpec": {
        "selector": _object("LabelSelector"),
        "template": _object("PodTemplateSpec"),
        "updateStrategy": _object("DaemonSetUpdateStrategy"),
    },
    "LabelSelector": {
        "matchLabels": _MAP,
        "matchExpressions": _ATOMIC,
    },
    "PodTemplateSpec": {
        "metadata": _object("ObjectMeta"),
        "spec": _object("PodSpec"),
    },
    "DeploymentStrategy": {
        "rollingUpdate": _MAP,
    },
    "StatefulSetUpdateStrategy": {
        "rollingUpdate": _MAP,
    },
    "DaemonSetUpdateStrategy": {
        "rollingUpdate": _MAP,
    },
    "ObjectMeta": {
        "labels": _MAP,
        "annotations": _MAP,
        "ownerReferences": _list_by("uid"),
        "finalizers": _SET,
        "managedFields": _ATOMIC,
    },
    "PodSpec": {
        "volumes": _list_by("name", "Volume"),
        "initContainers": _list_by("name", "Container"),
        "containers": _list_by("name", "Container"),
        "ephemeralContainers": _list_by("name", "EphemeralContainer"),
        "nodeSelector": _MAP,
        "securityContext": _object("PodSecurityContext"),
        "imagePullSecrets": _list_by("name"),
        "affinity": _object("Affinity"),
        "tolerations": _ATOMIC,
        "hostAliases": _list_by("ip", "HostAlias"),
        "dnsConfig": _object("PodDNSConfig"),
        "readinessGates": _ATOMIC,
        "overhead": _MAP,
        "topologySpreadConstraints": _list_by("topologyKey", "TopologySpreadConstraint"),
        "os": _MAP,
        "schedulingGates": _list_by("name"),
        "resourceClaims": _list_by("name"),
        "resources": _object("ResourceRequirements"),
        "schedulingGroup": _MAP,
    },
    "Volume": {
        "hostPath": _MAP,
        "emptyDir": _MAP,
        "gcePersistentDisk": _MAP,
        "awsElasticBlockStore": _MAP,
        "gitRepo": _MAP,
        "secret": _object("SecretVolumeSource"),
        "nfs": _MAP,
        "iscsi": _object("ISCSIVolumeSource"),
        "glusterfs": _MAP,
        "persistentVolumeClaim": _MAP,
        "rbd": _object("RBDVolumeSource"),
        "flexVolume": _object("FlexVolumeSource"),
        "cinder": _object("CinderVolumeSource"),
        "cephfs": _object("CephFSVolumeSource"),
        "flocker": _MAP,
        "downwardAPI": _object("DownwardAPIVolumeSource"),
        "fc": _object("FCVolumeSource"),
        "azureFile": _MAP,
        "configMap": _object("ConfigMapVolumeSource"),
        "vsphereVolume": _MAP,
        "quobyte": _MAP,
        "azureDisk": _MAP,
        "photonPersistentDisk": _MAP,
        "projected": _object("ProjectedVolumeSource"),
        "portworxVolume": _MAP,
        "scaleIO": _object("ScaleIOVolumeSource"),
        "storageos": _object("StorageOSVolumeSource"),
        "csi": _object("CSIVolumeSource"),
        "ephemeral": _object("EphemeralVolumeSource"),
        "image": _MAP,
    },
    "Container": _CONTAINER,
    "EphemeralContainer": _CONTAINER,
    "PodSecurityContext": {
        "seLinuxOptions": _MAP,
        "windowsOptions": _MAP,
        "supplementalGroups": _ATOMIC,
        "sysctls": _ATOMIC,
        "seccompProfile": _MAP,
        "appArmorProfile": _MAP,
    },
    "Affinity": {
        "nodeAffinity": _object("NodeAffinity"),
        "podAffinity": _object("PodAffinity"),
        "podAntiAffinity": _object("PodAntiAffinity"),
    },
    "HostAlias": {
        "hostnames": _ATOMIC,
    },
    "PodDNSConfig": {
        "nameservers": _ATOMIC,
        "searches": _ATOMIC,
        "options": _ATOMIC,
    },
    "TopologySpreadConstraint": {
        "labelSelector": _object("LabelSelector"),
        "matchLabelKeys": _ATOMIC,
    },
    "ResourceRequirements": {
        "limits": _MAP,
        "requests": _MAP,
        "claims": _ATOMIC,
    },
    "SecretVolumeSource": {
        "items": _ATOMIC,
    },
    "ISCSIVolumeSource": {
        "portals": _ATOMIC,
        "secretRef": _MAP,
    },
    "RBDVolumeSource": {
        "monitors": _ATOMIC,
        "secretRef": _MAP,
    },
    "FlexVolumeSource": {
        "secretRef": _MAP,
        "options": _MAP,
    },
    "CinderVolumeSource": {
        "secretRef": _MAP,
    },
    "CephFSVolumeSource": {
        "monitors": _ATOMIC,
        "secretRef": _MAP,
    },
    "DownwardAPIVolumeSource": {
        "items": _ATOMIC,
    },
    "FCVolumeSource": {
        "targetWWNs": _ATOMIC,
        "wwids": _ATOMIC,
    },
    "ConfigMapVolumeSource": {
        "items": _ATOMIC,
    },
    "ProjectedVolumeSource": {
        "sources": _ATOMIC,
    },
    "ScaleIOVolumeSource": {
        "secretRef": _MAP,
    },
    "StorageOSVolumeSource": {
        "secretRef": _MAP,
    },
    "CSIVolumeSource": {
        "volumeAttributes": _MAP,
        "nodePublishSecretRef": _MAP,
    },
    "EphemeralVolumeSource": {
        "volumeClaimTemplate": _object("PersistentVolumeClaimTemplate"),
    },
    "EnvVar": {
        "valueFrom": _object("EnvVarSource"),
    },
    "Probe": {
        "exec": _object("ExecAction"),
        "httpGet": _object("HTTPGetAction"),
        "tcpSocket": _MAP,
        "grpc": _MAP,
    },
    "Lifecycle": {
        "postStart": _object("LifecycleHandler"),
        "preStop": _object("LifecycleHandler"),
    },
    "SecurityContext": {
        "capabilities": _object("Capabilities"),
        "seLinuxOptions": _MAP,
        "windowsOptions": _MAP,
        "seccompProfile": _MAP,
        "appArmorProfile": _MAP,
    },
    "NodeAffinity": {
        "requiredDuringSchedulingIgnoredDuringExecution": _object("NodeSelector"),
        "preferredDuringSchedulingIgnoredDuringExecution": _ATOMIC,
    },
    "PodAffinity": {
        "requiredDuringSchedulingIgnoredDuringExecution": _ATOMIC,
        "preferredDuringSchedulingIgnoredDuringExecution": _ATOMIC,
    },
    "PodAntiAffinity": {
        "requiredDuringSchedulingIgnoredDuringExecution": _ATOMIC,
        "preferredDuringSchedulingIgnoredDuringExecution": _ATOMIC,
    },
    "PersistentVolumeClaimTemplate": {
        "metadata": _object("ObjectMeta"),
        "spec": _object("PersistentVolumeClaimSpec"),
    },
    "EnvVarSource": {
        "fieldRef": _MAP,
        "resourceFieldRef": _MAP,
        "configMapKeyRef": _MAP,
        "secretKeyRef": _MAP,
        "fileKeyRef": _MAP,
    },
    "ExecAction": {
        "command": _ATOMIC,
    },
    "HTTPGetAction": {
        "httpHeaders": _ATOMIC,
    },
    "LifecycleHandler": {
        "exec": _object("ExecAction"),
        "httpGet": _object("HTTPGetAction"),
        "tcpSocket": _MAP,
        "sleep": _MAP,
    },
    "Capabilities": {
        "add": _ATOMIC,
        "drop": _ATOMIC,
    },
    "NodeSelector": {
        "nodeSelectorTerms": _ATOMIC,
    },
    "PersistentVolumeClaimSpec": {
        "accessModes": _ATOMIC,
        "selector": _object("LabelSelector"),
        "resources": _object("VolumeResourceRequirements"),
        "dataSource": _MAP,
        "dataSourceRef": _MAP,
    },
    "VolumeResourceRequirements": {
        "limits": _MAP,
        "requests": _MAP,
    },
}


def field_of(type_name: str, name: str) -> Field | None:
    """Return the field `name` of a type, None where it is a scalar or not known."""
    fields = _TYPES.get(type_name)
    return None if fields is None else fields.get(name)
