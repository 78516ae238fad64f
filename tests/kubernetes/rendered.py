"""The manifests of examples/kubernetes, as ``kubectl kustomize`` prints them: what they use of it, and nothing else."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import yaml

ROOT = Path(__file__).parents[2]
EXAMPLE = ROOT / "examples" / "kubernetes"
OVERLAYS = sorted(path.parent.name for path in EXAMPLE.glob("overlays/*/kustomization.yaml"))
FOLDERS = [EXAMPLE / "base", *(EXAMPLE / "overlays" / name for name in OVERLAYS)]

Manifest = dict[str, Any]


class _Loader(yaml.SafeLoader):
    """YAML in which no key is said twice: PyYAML takes the last one, Kubernetes refuses both."""

    def construct_mapping(self, node: Any, deep: bool = False) -> dict[Any, Any]:
        keys = [self.construct_object(key) for key, _ in node.value if key.tag != "tag:yaml.org,2002:merge"]
        assert len(keys) == len(set(keys)), f"a key is said twice{node.start_mark}"
        return super().construct_mapping(node, deep)


def documents(text: str) -> list[Any]:
    """Return what is in a text of YAML."""
    return [each for each in yaml.load_all(text, _Loader) if each is not None]


def read(path: Path) -> list[Any]:
    return documents(path.read_text(encoding="utf-8"))


def render(folder: Path) -> list[Manifest]:
    """Return the manifests of a kustomization: its resources, with its JSON patches."""
    (plan,) = read(folder / "kustomization.yaml")
    assert {"apiVersion", "kind", "resources", "patches"} >= set(plan)
    assert ("kustomize.config.k8s.io/v1beta1", "Kustomization") == (plan["apiVersion"], plan["kind"])
    found: list[Manifest] = []
    for name in plan["resources"]:
        path = folder / name
        found += render(path.resolve()) if path.is_dir() else read(path)
    for patch in plan.get("patches", ()):
        assert {"target", "patch", "options"} >= set(patch)
        (target,) = (each for each in found if _identity(each) == patch["target"])
        kind = target["kind"]
        (operations,) = documents(patch["patch"])
        for operation in operations:
            apply(target, **operation)
        assert target["kind"] == kind or patch["options"] == {"allowKindChange": True}
    return copy.deepcopy(found)


def _identity(manifest: Manifest) -> dict[str, str]:
    group, _, version = manifest["apiVersion"].rpartition("/")
    return {"group": group, "version": version, "kind": manifest["kind"], "name": manifest["metadata"]["name"]}


_NOTHING = object()


def apply(target: Any, op: str, path: str, value: Any = _NOTHING) -> None:
    """Apply an operation of RFC 6902."""
    *parents, last = (part.replace("~1", "/").replace("~0", "~") for part in path.removeprefix("/").split("/"))
    for part in parents:
        target = target[int(part)] if isinstance(target, list) else target[part]
    if isinstance(target, list):
        assert (op, last) == ("add", "-"), f"{op} {path}: a list is added to, at its end"
        target.append(value)
    elif op == "remove":
        del target[last]
    else:
        assert op in {"add", "replace"}
        assert (op == "replace") == (last in target), f"{op} {path}: replace what is there, add what is not"
        target[last] = value


def named(manifests: list[Manifest], kind: str, name: str) -> Manifest:
    (found,) = (each for each in manifests if (each["kind"], each["metadata"]["name"]) == (kind, name))
    return found


def templates(manifests: list[Manifest]) -> dict[str, Manifest]:
    """Return the templates of pods, by the names of their workloads."""
    specs = {
        each["metadata"]["name"]: each["spec"] for each in manifests if each["kind"] in {"Deployment", "StatefulSet"}
    }
    return {name: spec["template"] for name, spec in specs.items()}


def containers(template: Manifest) -> list[Manifest]:
    spec = template["spec"]
    return [*spec.get("initContainers", ()), *spec["containers"]]
