"""As much of kustomize as docker/kubernetes uses: resources, JSON patches (RFC 6902) and tags of images."""

import copy
from pathlib import Path
from typing import Any

import yaml

Manifest = dict[str, Any]


def load(path: Path) -> list[Manifest]:
    """Return the objects of a YAML file."""
    return [entry for entry in yaml.safe_load_all(path.read_text(encoding="utf-8")) if entry]


def render(directory: Path) -> list[Manifest]:
    """Return the objects that ``kubectl apply -k`` would send.

    Raises:
        ValueError: The kustomization uses what is not understood here, or a patch meets nothing.
    """
    (wanted,) = load(directory / "kustomization.yaml")
    if unknown := set(wanted) - {"apiVersion", "kind", "resources", "patches", "images"}:
        raise ValueError(f"{directory}: {', '.join(sorted(unknown))} of a kustomization is not understood")
    objects: list[Manifest] = []
    for name in wanted["resources"]:
        place = directory / name
        objects += render(place) if place.is_dir() else load(place)
    for entry in wanted.get("patches", []):
        met = [one for one in objects if _is(one, entry["target"])]
        if not met:
            raise ValueError(f"{directory}: no object is {entry['target']}")
        for one in met:
            for operation in yaml.safe_load((directory / entry["path"]).read_text(encoding="utf-8")):
                patch(one, operation)
    for image in wanted.get("images", []):
        for one in objects:
            for container in containers(one):
                if container["image"] == image["name"]:
                    container["image"] = f"{image.get('newName', image['name'])}:{image['newTag']}"
    return objects


def patch(target: Manifest, operation: Manifest) -> None:
    """Apply one operation of a JSON patch in place.

    Raises:
        ValueError: The operation is none of add, replace and remove, or its place is not there.
    """
    *path, last = [part.replace("~1", "/").replace("~0", "~") for part in operation["path"].split("/")[1:]]
    place: Any = target
    try:
        for part in path:
            place = place[int(part) if isinstance(place, list) else part]
        key: Any = int(last) if isinstance(place, list) else last
        if operation["op"] != "add":
            place[key]  # what is replaced or removed has to be there
    except (KeyError, IndexError, ValueError) as error:
        raise ValueError(f"{operation['path']} is not there") from error
    if operation["op"] in ("add", "replace"):
        place[key] = copy.deepcopy(operation["value"])
    elif operation["op"] == "remove":
        del place[key]
    else:
        raise ValueError(f"{operation['op']!r} is not understood")


def template(entry: Manifest) -> Manifest | None:
    """Return the pod template of an object; None where it has none."""
    found = entry.get("spec", {}).get("template")
    return found if isinstance(found, dict) else None


def containers(entry: Manifest) -> list[Manifest]:
    """Return the containers of an object's pods."""
    pod = template(entry)
    return list(pod["spec"]["containers"]) if pod else []


def _is(entry: Manifest, target: Manifest) -> bool:
    return bool(entry["kind"] == target["kind"] and entry["metadata"]["name"] == target["name"])
