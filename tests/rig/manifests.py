"""What has to fit together in Kubernetes objects and no schema says: selectors, ports, volumes, links, capabilities."""

import json
from collections.abc import Iterator
from typing import Any

from host_sdk.wire.schema import UDP_PORT
from tests.rig.kustomize import Manifest, containers, template

UDP_LINK = f"udp:0.0.0.0:{UDP_PORT}"
WIRE = "net1"  # what Multus calls the first network that it adds
NETWORKS = "k8s.v1.cni.cncf.io/networks"
USER = 10001  # of the image


def misfits(objects: list[Manifest], around: tuple[Manifest, ...] = ()) -> list[str]:
    """Return a sentence for everything that does not fit; ``around`` is there already."""
    everything = [*objects, *around]
    found: list[str] = []
    for entry in objects:
        check = _CHECKS.get(entry["kind"])
        if check is None:
            found.append(f"{_name(entry)}: nobody looks at objects of this kind")
        else:
            found += [f"{_name(entry)}: {sentence}" for sentence in check(entry, everything)]
    names = [(_name(entry)) for entry in objects]
    found += [f"{name} is there twice" for name in sorted({name for name in names if names.count(name) > 1})]
    return found


def _name(entry: Manifest) -> str:
    return f"{entry['kind']} {entry['metadata']['name']}"


def _selected(selector: dict[str, str], everything: list[Manifest]) -> list[Manifest]:
    """Return the objects whose pods have all the labels of a selector; an empty one is refused as too much."""
    pods = [(entry, template(entry)) for entry in everything]
    return [entry for entry, pod in pods if pod and selector and selector.items() <= pod["metadata"]["labels"].items()]


def _workload(entry: Manifest, everything: list[Manifest]) -> Iterator[str]:
    pod = template(entry)
    assert pod
    spec = entry["spec"]
    if entry["kind"] != "Job":
        chosen = _selected(spec["selector"]["matchLabels"], everything)
        if entry not in chosen:
            yield "its selector does not match its own pods"
        if len(chosen) > 1:
            yield "its selector matches others' pods"
    for constraint in pod["spec"].get("topologySpreadConstraints", []):
        if entry not in _selected(constraint["labelSelector"]["matchLabels"], everything):
            yield "it spreads other pods than its own"
    claims = {claim["metadata"]["name"] for claim in spec.get("volumeClaimTemplates", [])}
    volumes = {volume["name"] for volume in pod["spec"].get("volumes", [])}
    mounted = {mount["name"] for container in containers(entry) for mount in container.get("volumeMounts", [])}
    yield from (f"nothing is called {name}, which is mounted" for name in sorted(mounted - claims - volumes))
    yield from (f"{name} is mounted nowhere" for name in sorted((claims | volumes) - mounted))
    identity = pod["spec"]["securityContext"]
    if (identity["runAsUser"], identity["runAsGroup"], identity["runAsNonRoot"]) != (USER, USER, True):
        yield "it does not run as the image's user"
    if identity["seccompProfile"] != {"type": "RuntimeDefault"}:
        yield "it runs without the runtime's seccomp profile"
    if claims and identity.get("fsGroup") != USER:
        yield "a volume that is claimed would belong to root"
    for container in containers(entry):
        yield from _container(container, pod, everything)


def _container(container: Manifest, pod: Manifest, everything: list[Manifest]) -> Iterator[str]:
    raw = NETWORKS in pod["metadata"].get("annotations", {})
    if raw:
        networks = {one["metadata"]["name"] for one in everything if one["kind"] == "NetworkAttachmentDefinition"}
        if pod["metadata"]["annotations"][NETWORKS] not in networks:
            yield "its network is not defined"
    allowed = container["securityContext"]
    if not allowed["readOnlyRootFilesystem"]:
        yield "its root file system can be written"
    if allowed["capabilities"]["drop"] != ["ALL"]:
        yield "it keeps capabilities of the runtime"
    # A file's capability counts only where privileges may grow, and is worth nothing without the bounding set's.
    wanted: tuple[list[str], bool] = (["NET_RAW"], True) if raw else ([], False)
    if (allowed["capabilities"].get("add", []), allowed["allowPrivilegeEscalation"]) != wanted:
        yield "raw frames need NET_RAW and that privileges may grow, and UDP neither"
    if container["command"] == ["napu-node"]:
        yield from _node(container, raw)


def _node(container: Manifest, raw: bool) -> Iterator[str]:
    arguments = container["args"]
    options = dict(zip(arguments[::2], arguments[1::2], strict=True))
    if options["--link"] != (f"packet:{WIRE}" if raw else UDP_LINK):
        yield f"its link {options['--link']} is not that of its network"
    ports = [] if raw else [{"name": "nip", "containerPort": UDP_PORT, "protocol": "UDP"}]
    if container.get("ports", []) != ports:
        yield "its ports are not those that it listens on"
    if options["--flash"] not in {mount["mountPath"] for mount in container["volumeMounts"]}:
        yield "its flash is no volume"
    named = options["--name"].removeprefix("$(").removesuffix(")")
    if named not in {variable["name"] for variable in container.get("env", [])}:
        yield "its name is a variable that is not set"
    probes = [container[kind]["exec"]["command"] for kind in ("startupProbe", "readinessProbe", "livenessProbe")]
    if probes != [["napu-node-health"]] * 3:
        yield "its probes do not ask its health"


def _stateful_set(entry: Manifest, everything: list[Manifest]) -> Iterator[str]:
    yield from _workload(entry, everything)
    services = [one for one in everything if one["kind"] == "Service"]
    governing = [one for one in services if one["metadata"]["name"] == entry["spec"]["serviceName"]]
    if not governing:
        yield "its service does not exist"
    elif governing[0]["spec"].get("clusterIP") != "None" or entry not in _selected(
        governing[0]["spec"]["selector"], everything
    ):
        yield "its service is not headless, or does not select its pods"


def _service(entry: Manifest, everything: list[Manifest]) -> Iterator[str]:
    chosen = _selected(entry["spec"]["selector"], everything)
    if not chosen:
        yield "it selects no pods"
    for port in entry["spec"].get("ports", []):
        if (port["port"], port["protocol"]) != (UDP_PORT, "UDP"):
            yield "it is not at the protocol's port"
        if not all(_has_port(one, port["targetPort"], port["protocol"]) for one in chosen):
            yield f"not all of its pods have a port {port['targetPort']}"


def _has_port(entry: Manifest, name: str, protocol: str) -> bool:
    ports = [port for container in containers(entry) for port in container.get("ports", [])]
    return any((port["name"], port["protocol"]) == (name, protocol) for port in ports)


def _budget(entry: Manifest, everything: list[Manifest]) -> Iterator[str]:
    chosen = _selected(entry["spec"]["selector"]["matchLabels"], everything)
    if [one["kind"] for one in chosen] != ["StatefulSet"]:
        yield "it does not select the appliances, and them alone"
    elif not 0 < entry["spec"]["maxUnavailable"] < chosen[0]["spec"]["replicas"]:
        yield "it forbids every drain, or none"


def _policy(entry: Manifest, everything: list[Manifest]) -> Iterator[str]:
    spec = entry["spec"]
    chosen = _selected(spec["podSelector"]["matchLabels"], everything)
    if not chosen:
        yield "it selects no pods"
    if spec["policyTypes"] != ["Ingress", "Egress"]:
        yield "it leaves a direction open"
    for direction, ends in (("ingress", "from"), ("egress", "to")):
        for rule in spec[direction]:
            peers = [peer["podSelector"]["matchLabels"] for peer in rule[ends] if "podSelector" in peer]
            others = [one for labels in peers for one in _selected(labels, everything)]
            if peers and not others:
                yield "it lets pods through that do not exist"
            served = chosen if direction == "ingress" else others
            for port in rule["ports"]:
                known = port["port"] == 53 or all(_has_port(one, port["port"], port["protocol"]) for one in served)
                if not known:
                    yield f"it lets through to a port {port['port']} that its pods do not have"


def _network(entry: Manifest, _everything: list[Manifest]) -> Iterator[str]:
    try:
        config: dict[str, Any] = json.loads(entry["spec"]["config"])
    except ValueError:
        yield "its configuration is not JSON"
        return
    if config.get("name") != entry["metadata"]["name"] or config.get("type") != "macvlan" or not config.get("master"):
        yield "it is not a macvlan of its own name on a card"
    if config.get("mode") != "bridge" or config.get("ipam") != {}:
        yield "its pods would not hear one another, or would have addresses"


_CHECKS = {
    "Deployment": _workload,
    "Job": _workload,
    "NetworkAttachmentDefinition": _network,
    "NetworkPolicy": _policy,
    "PodDisruptionBudget": _budget,
    "Service": _service,
    "StatefulSet": _stateful_set,
}
