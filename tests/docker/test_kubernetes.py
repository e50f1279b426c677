"""The files for Kubernetes: by the published schemas, by what has to fit together, and by what their commands do."""

import copy
import os
import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any

import jsonschema
import kubernetes_validate
import pytest
import yaml

from host_sdk.cli.demo_images import held_out
from tests.rig.kustomize import Manifest, containers, load, patch, render
from tests.rig.manifests import misfits
from tests.rig.nodes import ROOT, node_process

HERE = ROOT / "docker" / "kubernetes"
BASE, MACVLAN = HERE / "base", HERE / "macvlan"
EXAMPLES = sorted((HERE / "examples").glob("*.yaml"))
OLDEST = (1, 27)  # of the versions that docs/scale-out.md claims; the newest is the newest that there are schemas of
VERSIONS = [
    version
    for version in dict.fromkeys(kubernetes_validate.utils.all_versions())
    if tuple(map(int, version.split(".")[:2])) >= OLDEST
]
# The schema in the custom resource definition that Multus is installed with, artifacts/networks-crd.yaml of
# network-attachment-definition-client; strict as the schemas of Kubernetes are here.
NETWORK_ATTACHMENT = {
    "type": "object",
    "required": ["apiVersion", "kind", "metadata", "spec"],
    "additionalProperties": False,
    "properties": {
        "apiVersion": {"const": "k8s.cni.cncf.io/v1"},
        "kind": {"const": "NetworkAttachmentDefinition"},
        "metadata": {"type": "object"},
        "spec": {
            "type": "object",
            "required": ["config"],
            "additionalProperties": False,
            "properties": {"config": {"type": "string"}},
        },
    },
}


def every_object() -> list[Manifest]:
    return [*render(BASE), *render(MACVLAN), *(entry for path in EXAMPLES for entry in load(path))]


def validate(entry: Manifest, version: str) -> None:
    if entry["kind"] == "NetworkAttachmentDefinition":
        jsonschema.validate(entry, NETWORK_ATTACHMENT)
    else:
        kubernetes_validate.validate(entry, version, strict=True)


@pytest.mark.parametrize("version", VERSIONS)
def test_objects_keep_to_the_published_schemas(version: str) -> None:
    """Each object that differs, once: the overlay leaves some as they are."""
    seen: list[Manifest] = []
    for entry in every_object():
        if entry not in seen:
            validate(entry, version)
            seen.append(entry)
    assert {entry["kind"] for entry in seen} >= {"StatefulSet", "NetworkAttachmentDefinition", "Job"}


@pytest.mark.parametrize(
    ("kind", "operation"),
    [
        ("StatefulSet", {"op": "add", "path": "/spec/template/spec/containers/0/livenesProbe", "value": {}}),
        ("StatefulSet", {"op": "replace", "path": "/spec/replicas", "value": "three"}),
        ("PodDisruptionBudget", {"op": "add", "path": "/spec/unhealthyPods", "value": "AlwaysAllow"}),
        ("Service", {"op": "replace", "path": "/spec/ports/0/port", "value": "nip"}),
        ("NetworkPolicy", {"op": "add", "path": "/spec/ingress/0/form", "value": []}),
        ("NetworkAttachmentDefinition", {"op": "replace", "path": "/spec/config", "value": {"type": "macvlan"}}),
        ("NetworkAttachmentDefinition", {"op": "remove", "path": "/spec/config"}),
    ],
)
def test_what_breaks_a_schema_is_found(kind: str, operation: Manifest) -> None:
    entry = copy.deepcopy(next(entry for entry in every_object() if entry["kind"] == kind))
    patch(entry, operation)
    with pytest.raises((jsonschema.ValidationError, kubernetes_validate.ValidationError)):
        validate(entry, VERSIONS[-1])


def test_the_versions_claimed_are_those_looked_at() -> None:
    page = (ROOT / "docs" / "scale-out.md").read_text(encoding="utf-8")
    newest = ".".join(VERSIONS[-1].split(".")[:2])
    assert f"Kubernetes {OLDEST[0]}.{OLDEST[1]} to {newest}" in page


def test_the_overlays_are_what_kubectl_makes_of_them() -> None:
    kubectl = shutil.which("kubectl")
    if kubectl is None:
        pytest.skip("only where kubectl is")
    for directory in (BASE, MACVLAN):
        made = subprocess.run([kubectl, "kustomize", str(directory)], capture_output=True, check=True, timeout=60)
        theirs = list(yaml.safe_load_all(made.stdout))
        assert sorted(render(directory), key=repr_of) == sorted(theirs, key=repr_of)


def repr_of(entry: Manifest) -> str:
    return f"{entry['kind']} {entry['metadata']['name']}"


def test_everything_fits_together() -> None:
    assert misfits(render(BASE)) == []
    assert misfits(render(MACVLAN)) == []
    for path in EXAMPLES:
        assert misfits(load(path), tuple(render(BASE))) == []


POD = "/spec/template/spec"
CONTAINER = f"{POD}/containers/0"
SELECTOR = "/spec/selector/matchLabels/app.kubernetes.io~1component"


def replace(kind: str, path: str, value: object) -> tuple[str, Manifest]:
    return kind, {"op": "replace", "path": path, "value": value}


def add(kind: str, path: str, value: object) -> tuple[str, Manifest]:
    return kind, {"op": "add", "path": path, "value": value}


def remove(kind: str, path: str) -> tuple[str, Manifest]:
    return kind, {"op": "remove", "path": path}


WRONG = [
    replace("StatefulSet", SELECTOR, "applianec"),
    replace("StatefulSet", SELECTOR, "host"),
    remove("StatefulSet", SELECTOR),  # selects the host's pods as well
    replace("StatefulSet", "/spec/serviceName", "appliances"),
    replace("StatefulSet", f"{POD}/topologySpreadConstraints/0/labelSelector/matchLabels", {"a": "b"}),
    replace("StatefulSet", f"{CONTAINER}/volumeMounts/0/name", "flahs"),
    replace("StatefulSet", f"{CONTAINER}/volumeMounts/0/mountPath", "/flahs"),
    remove("StatefulSet", f"{CONTAINER}/volumeMounts/1"),
    replace("StatefulSet", f"{CONTAINER}/args/1", "udp:0.0.0.0:34998"),
    replace("StatefulSet", f"{CONTAINER}/args/1", "packet:eth0"),
    replace("StatefulSet", f"{CONTAINER}/ports/0/containerPort", 34998),
    replace("StatefulSet", f"{CONTAINER}/ports/0/protocol", "TCP"),
    replace("StatefulSet", f"{CONTAINER}/env/0/name", "POD"),
    replace("StatefulSet", f"{CONTAINER}/livenessProbe/exec/command", ["true"]),
    replace("StatefulSet", f"{CONTAINER}/securityContext/readOnlyRootFilesystem", False),
    replace("StatefulSet", f"{CONTAINER}/securityContext/allowPrivilegeEscalation", True),
    replace("StatefulSet", f"{CONTAINER}/securityContext/capabilities/drop", ["MKNOD"]),
    add("StatefulSet", f"{CONTAINER}/securityContext/capabilities/add", ["NET_RAW"]),
    replace("StatefulSet", f"{POD}/securityContext/runAsUser", 0),
    replace("StatefulSet", f"{POD}/securityContext/fsGroup", 1),
    replace("StatefulSet", f"{POD}/securityContext/seccompProfile/type", "Unconfined"),
    replace("Service", "/spec/clusterIP", "10.0.0.1"),
    replace("Service", "/spec/selector/app.kubernetes.io~1component", "host"),
    replace("Service", "/spec/ports/0/targetPort", "npi"),
    replace("Service", "/spec/ports/0/port", 34998),
    replace("Service", "/spec/ports/0/protocol", "TCP"),
    replace("PodDisruptionBudget", SELECTOR, "host"),
    replace("PodDisruptionBudget", "/spec/maxUnavailable", 3),
    replace("NetworkPolicy", "/spec/podSelector/matchLabels", {"a": "b"}),
    replace("NetworkPolicy", "/spec/policyTypes", ["Ingress"]),
    replace("NetworkPolicy", "/spec/ingress/0/from/0/podSelector/matchLabels", {"a": "b"}),
    replace("NetworkPolicy", "/spec/ingress/0/ports/0/port", "npi"),
    replace("Deployment", SELECTOR, "appliance"),
    replace("Service", "/metadata/name", "other"),
]


@pytest.mark.parametrize(("kind", "operation"), WRONG)
def test_what_does_not_fit_is_found(kind: str, operation: Manifest) -> None:
    objects = render(BASE)
    patch(next(entry for entry in objects if entry["kind"] == kind), operation)
    assert misfits(objects)


WRONG_RAW = [
    replace("NetworkAttachmentDefinition", "/metadata/name", "other"),
    replace("NetworkAttachmentDefinition", "/spec/config", "{"),
    replace("NetworkAttachmentDefinition", "/spec/config", '{"name": "nip", "type": "bridge"}'),
    replace("StatefulSet", f"{CONTAINER}/securityContext/allowPrivilegeEscalation", False),
    remove("StatefulSet", f"{CONTAINER}/securityContext/capabilities/add"),
    replace("StatefulSet", f"{CONTAINER}/args/1", "packet:net2"),
    remove("StatefulSet", "/spec/template/metadata/annotations"),
    remove("Deployment", f"{CONTAINER}/securityContext/capabilities/add"),
]


@pytest.mark.parametrize(("kind", "operation"), WRONG_RAW)
def test_what_does_not_fit_on_a_wire_is_found(kind: str, operation: Manifest) -> None:
    objects = render(MACVLAN)
    patch(next(entry for entry in objects if entry["kind"] == kind), operation)
    assert misfits(objects)


def test_the_images_are_of_this_version() -> None:
    version = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]["version"]
    images = [container["image"] for entry in every_object() for container in containers(entry)]
    assert len(images) >= 5
    assert set(images) == {f"napu:{version}"}


def the(kind: str, objects: list[Manifest]) -> Any:
    (found,) = [entry for entry in objects if entry["kind"] == kind]
    return found


def test_the_commands_do_what_they_are_for(tmp_path: Path) -> None:
    """The appliance's arguments start a node, and the job loads it; both with places of this machine."""
    (appliance,) = containers(the("StatefulSet", render(BASE)))
    options = dict(zip(appliance["args"][::2], appliance["args"][1::2], strict=True))
    assert (options.pop("--flash"), options.pop("--link")) == ("/flash", "udp:0.0.0.0:34997")
    options["--name"] = options["--name"].replace("$(POD_NAME)", "appliance-0")
    two = tmp_path / "digits" / "0007-two.jpg"
    two.parent.mkdir()
    two.write_bytes(next(item.jpeg for item in held_out(500) if item.name == two.name))
    (job,) = containers(the("Job", load(HERE / "examples" / "load.yaml")))
    with node_process(tmp_path, *(text for pair in options.items() for text in pair)) as node:
        assert node.facts["name"] == "appliance-0"
        command = [*job["command"], *job["args"]]
        for theirs, ours in (("appliance", f"localhost:{node.address.rpartition(':')[2]}"), ("10", "1")):
            command[command.index(theirs)] = ours
        path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
        done = subprocess.run(
            command,
            capture_output=True,
            text=True,
            env={**os.environ, "PATH": path},
            timeout=60,
            check=False,
            cwd=tmp_path,  # has what is in the image's working directory
        )
    assert done.returncode == 0, done.stderr
    answers = re.search(rf"^{re.escape(node.address)} +(\d+) answers", done.stdout, re.MULTILINE)
    assert answers, done.stdout
    assert int(answers[1]) > 10
