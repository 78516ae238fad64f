"""The manifests of examples/kubernetes: what Kubernetes would refuse, and what does not fit the app or each other."""

from __future__ import annotations

import copy
import inspect
import re
import shutil
import subprocess
from typing import TYPE_CHECKING, Any

import attrs
import kubernetes_validate
import pytest
from kubernetes_validate.utils import all_versions

from stateful_route import BaseConfig
from stateful_route.cli.app import make_app
from stateful_route.web import StickyMiddleware
from stateful_route.web.front import _START_WITHIN
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
    from pathlib import Path

CONFIG = BaseConfig()
STOP_AFTER = inspect.signature(StickyMiddleware.__init__).parameters["stop_after"].default
OLDEST = (1, 30)  # preStop.sleep, and sidecars, are on by default from there on
VERSIONS = [
    version
    for version in dict.fromkeys(all_versions())
    if tuple(int(part) for part in version.split(".")[:2]) >= OLDEST
]
# Of the web part, and of the example.
MORE_VARIABLES = {"STATEFUL_ROUTE_URL", "STATEFUL_ROUTE_SECRET", "STATEFUL_ROUTE_PEER_LISTEN", "STICKY"}
SCALER = (EXAMPLE / "scaler.py").read_text(encoding="utf-8")

every_folder = pytest.mark.parametrize("folder", FOLDERS, ids=lambda folder: folder.name)


# What Kubernetes takes ----------------------------------------------------------------------------------------------


@every_folder
@pytest.mark.parametrize("version", VERSIONS)
def test_schemas(folder: Path, version: str) -> None:
    """Each manifest is one by the schema of each version of Kubernetes, and has no field that this does not know."""
    for manifest in render(folder):
        kubernetes_validate.validate(manifest, version, strict=True)


def test_versions() -> None:
    """Several versions are tried, and mistakes are found: an unknown field, one of a wrong type, too old a version."""
    room = named(render(EXAMPLE / "base"), "Deployment", "room")
    unknown, wrong = copy.deepcopy(room), copy.deepcopy(room)
    unknown["spec"]["template"]["spec"]["gracePeriod"] = 50
    wrong["spec"]["replicas"] = "three"

    assert len(VERSIONS) >= 5
    for manifest, version in ((unknown, VERSIONS[-1]), (wrong, VERSIONS[-1]), (room, "1.28.0")):
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
def test_references(folder: Path) -> None:
    """Each selector, name of a port, volume, account and target says something that is there."""
    manifests = render(folder)
    labels = [template["metadata"]["labels"] for template in templates(manifests).values()]
    for manifest in manifests:
        for chosen in _selected(manifest):
            assert any(chosen.items() <= each.items() for each in labels), manifest
    for template in templates(manifests).values():
        spec = template["spec"]
        volumes = {volume["name"] for volume in spec.get("volumes", ())}
        for container in containers(template):
            ports = {port["name"] for port in container.get("ports", ())}
            probes = [container[kind] for kind in container if kind.endswith("Probe")]

            assert {mount["name"] for mount in container.get("volumeMounts", ())} <= volumes
            assert {(probe.get("httpGet") or probe["tcpSocket"])["port"] for probe in probes} <= ports
        if "serviceAccountName" in spec:
            assert named(manifests, "ServiceAccount", spec["serviceAccountName"])
    for service in (each for each in manifests if each["kind"] == "Service"):
        (template,) = (
            each for name, each in templates(manifests).items() if name == service["spec"]["selector"]["app"]
        )
        known = {port["name"]: port["containerPort"] for each in containers(template) for port in each.get("ports", ())}
        assert {port["targetPort"] for port in service["spec"]["ports"]} <= set(known)


def _selected(manifest: Manifest) -> list[dict[str, str]]:
    spec = manifest.get("spec", {})
    selectors = [spec.get("selector"), spec.get("podSelector")]
    found = [each.get("matchLabels", each) for each in selectors if each]
    if manifest["kind"] in {"Deployment", "StatefulSet"}:
        spread = spec["template"]["spec"].get("topologySpreadConstraints", ())
        found += [each["labelSelector"]["matchLabels"] for each in spread]
    return found


@every_folder
def test_commands(folder: Path) -> None:
    """Our commands have the options that they are given, and the ports that the manifest says."""
    for template in templates(render(folder)).values():
        for container in containers(template):
            command, ports = container["command"], [str(port["containerPort"]) for port in container.get("ports", ())]
            if command[0] == "stateful-route":
                assert make_app().parse_args(command[1:], exit_on_error=False)
            if "--port" in command:
                assert command[command.index("--port") + 1] == ports[0]
            peers = [each for each in container.get("env", ()) if each["name"] == "STATEFUL_ROUTE_PEER_LISTEN"]
            assert [f"tcp://0.0.0.0:{port}" for port in ports[1:]] == [each["value"] for each in peers]


@every_folder
def test_variables(folder: Path) -> None:
    """Each variable is one that somebody reads."""
    settings = {f"STATEFUL_ROUTE_{field.name.upper()}" for field in attrs.fields(BaseConfig)}
    known = settings | MORE_VARIABLES | set(re.findall(r'"(SCALER_[A-Z]+)"', SCALER))
    for template in templates(render(folder)).values():
        for container in containers(template):
            assert {each["name"] for each in container.get("env", ())} <= known


@every_folder
def test_secrets(folder: Path) -> None:
    """No manifest has a secret: they are referred to, by names and keys that secrets.sh makes."""
    manifests = render(folder)
    made = documents((EXAMPLE / "secrets.sh").read_text(encoding="utf-8").split("<<SECRETS\n")[1].split("\nSECRETS")[0])
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
    """The user of Redis has the rights that docs/deploy.md says, and its own name in the URL."""
    page = (ROOT / "docs" / "deploy.md").read_text(encoding="utf-8")
    script = (EXAMPLE / "secrets.sh").read_text(encoding="utf-8")
    (rights,) = re.findall(r"ACL SETUSER app on >PASSWORD (.*)", page)

    assert f"rights='{rights}'" in script
    assert "redis://app:$password@valkey" in script
    assert named(render(EXAMPLE / "base"), "Service", "valkey")


@every_folder
def test_containers_are_confined(folder: Path) -> None:
    """No container is root or can become it, writes to its image, or has an account that it does not need."""
    for name, template in templates(render(folder)).items():
        spec = template["spec"]

        assert spec["securityContext"].items() >= {"runAsNonRoot": True, "runAsUser": 10001}.items()
        assert {"type": "RuntimeDefault"} == spec["securityContext"]["seccompProfile"]
        assert (name == "scaler") == spec["automountServiceAccountToken"]
        for container in containers(template):
            expected = {
                "allowPrivilegeEscalation": False,
                "readOnlyRootFilesystem": True,
                "capabilities": {"drop": ["ALL"]},
            }

            assert expected == container["securityContext"]
            assert {"cpu", "memory"} == set(container["resources"]["requests"])
            assert {"memory"} == set(container["resources"]["limits"])  # a throttled CPU misses heartbeats
            assert re.fullmatch(r"[a-z/]+:[0-9.]+", container["image"])


# The end of a pod ---------------------------------------------------------------------------------------------------


def waited(container: Manifest) -> int:
    return int(container["lifecycle"]["preStop"]["sleep"]["seconds"])


def option(container: Manifest, name: str) -> float:
    command = container["command"]
    return float(command[command.index(name) + 1])


def said(path: Path) -> list[int]:
    """Return the sum, or the sums, that the comments of a file come to."""
    return [int(number) for number in re.findall(r"# preStop .* = (\d+)", path.read_text(encoding="utf-8"))]


@pytest.mark.parametrize("folder", [each for each in FOLDERS if each.name != "run"], ids=lambda folder: folder.name)
def test_grace_of_a_pod(folder: Path) -> None:
    """The grace period is above all that the end of a pod can take, in its order, by the defaults in the code."""
    template = templates(render(folder))["room"]
    (pod,) = template["spec"]["containers"]
    drained = CONFIG.drain_deadline + STOP_AFTER
    longest = waited(pod) + drained + option(pod, "--timeout-graceful-shutdown") + CONFIG.stop_deadline

    assert [longest] == said(EXAMPLE / "base" / "room.yaml")
    assert longest + 5 <= template["spec"]["terminationGracePeriodSeconds"]
    assert waited(pod) >= 2 * pod["readinessProbe"]["periodSeconds"]
    assert not {each["name"] for each in pod["env"]} & {"STATEFUL_ROUTE_DRAIN_DEADLINE", "STATEFUL_ROUTE_STOP_DEADLINE"}


def test_grace_under_run() -> None:
    """The same for an app under ``run``, which ends after its supervisor has drained."""
    template = templates(render(EXAMPLE / "overlays" / "run"))["room"]
    (pod,) = template["spec"]["containers"]
    longest = (
        waited(pod) + CONFIG.drain_deadline + 2 * option(pod, "--stop-timeout") + STOP_AFTER + CONFIG.stop_deadline
    )

    assert [longest] == said(EXAMPLE / "overlays" / "run" / "kustomization.yaml")
    assert longest + 5 <= template["spec"]["terminationGracePeriodSeconds"]


def test_grace_of_the_gateway() -> None:
    """That of the gateway is for WebSockets that end by turns, and for requests under way, held ones too."""
    template = templates(render(EXAMPLE / "base"))["gateway"]
    (gateway,) = template["spec"]["containers"]
    under_way = 30
    longest = waited(gateway) + CONFIG.drain_deadline / 2 + under_way

    assert [longest] == said(EXAMPLE / "base" / "gateway.yaml")
    assert longest == template["spec"]["terminationGracePeriodSeconds"]
    assert under_way > CONFIG.lease_seconds + 1


def test_the_page() -> None:
    """The tables and sums of the README are those of the manifests."""
    page = (EXAMPLE / "README.md").read_text(encoding="utf-8")
    rows = {name: int(seconds) for name, seconds in re.findall(r"^\| `([^`]+)` \| (\d+) \|", page, re.MULTILINE)}
    pods = templates(render(EXAMPLE / "base"))
    (pod,) = pods["room"]["spec"]["containers"]
    expected = {
        "preStop: sleep": waited(pod),
        "drain_deadline": CONFIG.drain_deadline,
        "stop_after": STOP_AFTER,
        "--timeout-graceful-shutdown": option(pod, "--timeout-graceful-shutdown"),
        "stop_deadline": CONFIG.stop_deadline,
    }

    assert expected == rows
    assert f"| together | {sum(rows.values())} | `terminationGracePeriodSeconds: 50` |" in page
    for path in (EXAMPLE / "base" / "gateway.yaml", EXAMPLE / "overlays" / "run" / "kustomization.yaml"):
        assert f"= {said(path)[0]}" in page


# Probes -------------------------------------------------------------------------------------------------------------


@every_folder
def test_probes(folder: Path) -> None:
    """A start may wait for Redis as long as it does; a stall kills a pod only once its uids are gone anyway."""
    for name in ("room", "gateway"):
        (container,) = templates(render(folder))[name]["spec"]["containers"]
        startup, liveness = container["startupProbe"], container["livenessProbe"]

        assert startup["periodSeconds"] * startup["failureThreshold"] > 2 * _START_WITHIN
        assert liveness["periodSeconds"] * (liveness["failureThreshold"] - 1) > CONFIG.lease_seconds
        if name == "room":
            assert "/healthz" == liveness["httpGet"]["path"] == container["readinessProbe"]["httpGet"]["path"]
        else:  # by a path it would ask a pod
            assert "httpGet" not in str(container)


# The network --------------------------------------------------------------------------------------------------------


class Network:
    """Who may speak to whom, by the policies: those that select a pod have to admit it, as Kubernetes reads them."""

    def __init__(self, manifests: list[Manifest]) -> None:
        self.policies = [each["spec"] for each in manifests if each["kind"] == "NetworkPolicy"]

    def admits(self, source: str, target: str, port: int, protocol: str = "TCP") -> bool:
        """Whether pods with one label ``app`` reach those with another one; ``dns`` and ``outside`` are elsewhere."""
        to = {"port": port, "protocol": protocol}
        return self._side("Egress", "to", source, target, to) and self._side("Ingress", "from", target, source, to)

    def _side(self, kind: str, peers: str, of: str, other: str, port: Manifest) -> bool:
        applying = [each for each in self.policies if each["podSelector"]["matchLabels"]["app"] == of]
        applying = [each for each in applying if kind in each["policyTypes"]]
        return not applying or any(
            port in rule["ports"] and (peers not in rule or any(_is(other, peer) for peer in rule[peers]))
            for policy in applying
            for rule in policy[kind.lower()]
        )


def _is(app: str, peer: Manifest) -> bool:
    if "namespaceSelector" in peer:
        return app == "dns"
    selector = peer["podSelector"]
    if "matchLabels" in selector:
        return bool(selector["matchLabels"] == {"app": app})
    (expression,) = selector["matchExpressions"]
    assert ("app", "In") == (expression["key"], expression["operator"])
    return app in expression["values"]


@every_folder
def test_network(folder: Path) -> None:
    """What has to reach each other does; nothing else reaches Redis or the peers' port."""
    manifests = render(folder)
    network = Network(manifests)
    scaled = "scaler" in templates(manifests)
    clients = {"room", "gateway"} | ({"scaler"} if scaled else set())
    apps = {"room", "gateway", "valkey", "scaler", "outside"} - (set() if scaled else {"scaler"})
    to_redis = {app for app in apps if network.admits(app, "valkey", 6379)}
    to_peers = {app for app in apps if network.admits(app, "room", 7946)}

    assert clients == to_redis
    assert {"room", "gateway"} == to_peers
    assert network.admits("outside", "gateway", 8000)
    assert not network.admits("outside", "room", 8000)
    assert all(network.admits(app, "dns", 53, protocol) for app in clients for protocol in ("UDP", "TCP"))
    assert not any(network.admits("valkey", app, port) for app in apps for port in (443, 6379, 7946, 8000))
    assert not network.admits("room", "outside", 443)
    if scaled:
        assert network.admits("scaler", "outside", 443)
        assert network.admits("outside", "scaler", 9090)


# Scaling ------------------------------------------------------------------------------------------------------------


def test_autoscale() -> None:
    """The autoscaler alone says how many pods there are, by the metric of scaler.py, and one leaves at a time."""
    manifests = render(EXAMPLE / "overlays" / "autoscale")
    room = named(manifests, "Deployment", "room")
    scaler: Any = named(manifests, "HorizontalPodAutoscaler", "room")["spec"]
    (metric,) = scaler["metrics"]
    (values,) = read(EXAMPLE / "overlays" / "autoscale" / "adapter-values.yaml")
    (rule,) = values["rules"]["external"]
    (leaving,) = scaler["behavior"]["scaleDown"]["policies"]
    name, labels = metric["external"]["metric"]["name"], metric["external"]["metric"]["selector"]["matchLabels"]
    (pod,) = templates(manifests)["scaler"]["spec"]["containers"]
    service = next(each["value"] for each in pod["env"] if each["name"] == "SCALER_SERVICE")

    assert "replicas" not in room["spec"]
    assert {key: room[key] for key in ("apiVersion", "kind")} | {"name": "room"} == scaler["scaleTargetRef"]
    assert f'{name}{{{{service="{{service}}"}}}}' in SCALER
    assert f'__name__="{name}"' in rule["seriesQuery"]
    assert {"service": service} == labels
    assert 1 == leaving["value"]
    assert leaving["periodSeconds"] >= room["spec"]["template"]["spec"]["terminationGracePeriodSeconds"]
    assert [{"apiGroups": [""], "resources": ["pods"], "verbs": ["list", "patch"]}] == named(
        manifests, "Role", "scaler"
    )["rules"]
