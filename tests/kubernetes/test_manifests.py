"""The manifests of examples/kubernetes: what Kubernetes would refuse, and what does not fit the app or each other."""

from __future__ import annotations

import copy
import re
import shutil
import subprocess
from typing import TYPE_CHECKING

import kubernetes_validate
import pytest

from tests.kubernetes import rules
from tests.kubernetes.rendered import (
    EXAMPLE,
    FOLDERS,
    ROOT,
    Manifest,
    containers,
    documents,
    named,
    read,
    render,
    templates,
)

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    Rule = Callable[[list[Manifest]], None]

RULES = [
    rules.references,
    rules.commands,
    rules.variables,
    rules.confined,
    rules.disruptions,
    rules.grace,
    rules.probes,
    rules.network,
]
UNDER_WAY = 30

every_folder = pytest.mark.parametrize("folder", FOLDERS, ids=lambda folder: folder.name)


# What Kubernetes takes ----------------------------------------------------------------------------------------------


@every_folder
@pytest.mark.parametrize("version", rules.VERSIONS)
def test_schemas(folder: Path, version: str) -> None:
    """Each manifest is one by the schema of each version of Kubernetes, and has no field that this does not know."""
    rules.schemas(render(folder), version)


def test_versions() -> None:
    """Several versions are tried, and mistakes are found: an unknown field, one of a wrong type, too old a version."""
    room = named(render(EXAMPLE / "base"), "Deployment", "room")
    unknown, wrong = copy.deepcopy(room), copy.deepcopy(room)
    unknown["spec"]["template"]["spec"]["gracePeriod"] = 50
    wrong["spec"]["replicas"] = "three"

    assert len(rules.VERSIONS) >= 5
    for manifest, version in ((unknown, rules.VERSIONS[-1]), (wrong, rules.VERSIONS[-1]), (room, "1.28.0")):
        with pytest.raises(kubernetes_validate.ValidationError):
            kubernetes_validate.validate(manifest, version, strict=True)


@every_folder
@pytest.mark.skipif(shutil.which("kustomize") is None, reason="kustomize is not there: apt-get install kustomize")
def test_kustomize(folder: Path) -> None:
    """What the tests take for the manifests of a folder is what kustomize prints."""
    printed = subprocess.run(["kustomize", "build", folder], check=True, capture_output=True, text=True)

    def by_name(manifests: list[Manifest]) -> dict[tuple[str, str], Manifest]:
        return {(each["kind"], each["metadata"]["name"]): each for each in manifests}

    assert "" == printed.stderr
    assert by_name(documents(printed.stdout)) == by_name(render(folder))


# What fits together -------------------------------------------------------------------------------------------------


@every_folder
@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.__name__)
def test_rules(folder: Path, rule: Rule) -> None:
    """What each rule says holds for each folder."""
    rule(render(folder))


@every_folder
def test_images(folder: Path) -> None:
    """Each image has a tag, and the user of the Dockerfile."""
    for template in templates(render(folder)).values():
        assert 10001 == template["spec"]["securityContext"]["runAsUser"]
        for container in containers(template):
            assert re.fullmatch(r"[a-z/]+:[0-9.]+", container["image"])


@every_folder
def test_secrets(folder: Path) -> None:
    """No manifest has a secret: they are referred to, by names and keys that secrets.sh makes."""
    manifests = render(folder)
    script = (EXAMPLE / "secrets.sh").read_text(encoding="utf-8").split("<<SECRETS\n")[1].split("\nSECRETS")[0]
    made = documents(script.replace("$name", "room").replace("$valkey", "valkey"))
    keys = {secret["metadata"]["name"]: set(secret["stringData"]) for secret in made}
    references = 0
    for template in templates(manifests).values():
        for volume in template["spec"].get("volumes", ()):
            assert "secret" not in volume or volume["secret"]["secretName"] in keys
        for container in containers(template):
            for variable in container.get("env", ()):
                if re.search("URL|SECRET|PASSWORD|TOKEN", variable["name"]):
                    reference = variable["valueFrom"]["secretKeyRef"]
                    references += 1

                    assert reference["key"] in keys[reference["name"]]

    assert references >= 4
    assert "Secret" not in {manifest["kind"] for manifest in manifests}


def test_rights() -> None:
    """The user of Redis has the rights that docs/deploy.md says, those of histories too, and its name in the URL."""
    page = (ROOT / "docs" / "deploy.md").read_text(encoding="utf-8")
    script = (EXAMPLE / "secrets.sh").read_text(encoding="utf-8")
    (rights,) = re.findall(r"ACL SETUSER app on >PASSWORD (.*)", page)

    (given,) = re.findall(r"^rights='(.*)'$", script, re.MULTILINE)
    assert {"+lrange", "+ltrim", "+rpush"} == set(given.split()) - set(rights.split())  # for STATEFUL_ROUTE_HISTORY
    assert [] == [right for right in rights.split() if right not in given.split()]
    assert "redis://app:$password@$valkey" in script
    assert named(render(EXAMPLE / "base"), "Service", "valkey")


# The end of a pod ---------------------------------------------------------------------------------------------------


def said(path: Path) -> list[int]:
    """Return the sum, or the sums, that the comments of a file come to."""
    return [int(number) for number in re.findall(r"# preStop .* = (\d+)", path.read_text(encoding="utf-8"))]


@every_folder
def test_sums(folder: Path) -> None:
    """The comment beside a grace period comes to what the end of that pod can take, by the defaults in the code."""
    pods = templates(render(folder))
    (pod,) = pods["room"]["spec"]["containers"]
    own = said(folder / "kustomization.yaml")  # of `run`, which ends in another way
    base = EXAMPLE / "base"

    assert [rules.longest(pod)] == (own or said(base / "room.yaml"))
    assert [pods["gateway"]["spec"]["terminationGracePeriodSeconds"]] == said(base / "gateway.yaml")
    assert not {each["name"] for each in pod["env"]} & {"STATEFUL_ROUTE_DRAIN_DEADLINE", "STATEFUL_ROUTE_STOP_DEADLINE"}
    assert UNDER_WAY > rules.CONFIG.lease_seconds + 1  # requests are held so long


def test_the_page() -> None:
    """The tables and sums of the README are those of the manifests."""
    page = (EXAMPLE / "README.md").read_text(encoding="utf-8")
    rows = {name: int(seconds) for name, seconds in re.findall(r"^\| `([^`]+)` \| (\d+) \|", page, re.MULTILINE)}
    pods = templates(render(EXAMPLE / "base"))
    (pod,) = pods["room"]["spec"]["containers"]
    expected = {
        "preStop: sleep": rules.waited(pod),
        "drain_deadline": rules.CONFIG.drain_deadline,
        "stop_after": rules.STOP_AFTER,
        "--timeout-graceful-shutdown": rules.option(pod, "--timeout-graceful-shutdown"),
        "stop_deadline": rules.CONFIG.stop_deadline,
    }

    assert expected == rows
    assert f"| together | {sum(rows.values())} | `terminationGracePeriodSeconds: 50` |" in page
    for path in (EXAMPLE / "base" / "gateway.yaml", EXAMPLE / "overlays" / "run" / "kustomization.yaml"):
        assert f"= {said(path)[0]}" in page


# Scaling ------------------------------------------------------------------------------------------------------------


def test_autoscale() -> None:
    """The overlay scales by what the adapter of its values reads, and by the rules."""
    manifests = render(EXAMPLE / "overlays" / "autoscale")
    rules.autoscaled(manifests)
    (metric,) = named(manifests, "HorizontalPodAutoscaler", "room")["spec"]["metrics"]
    (values,) = read(EXAMPLE / "overlays" / "autoscale" / "adapter-values.yaml")
    (rule,) = values["rules"]["external"]

    assert f'__name__="{metric["external"]["metric"]["name"]}"' in rule["seriesQuery"]
