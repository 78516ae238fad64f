"""The Helm chart of examples/kubernetes: the same as the kustomizations, under the same rules."""

from __future__ import annotations

import json
import re
import shlex
import shutil
from functools import partial
from typing import TYPE_CHECKING, Any

import pytest
import yaml

from stateful_route.cli.app import make_app
from tests.kubernetes import rules
from tests.kubernetes.chart import CHART, VALUES, WITHOUT, Refused, found, helm, printed, rendered
from tests.kubernetes.node import make_secrets
from tests.kubernetes.rendered import FOLDERS, Manifest, named, read, render, templates

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

pytestmark = pytest.mark.skipif(found() is None, reason=WITHOUT)

FILES = sorted(path.stem for path in VALUES.glob("*.yaml"))
# Values that nobody has by default, all at once; with another name of the release.
ODD: dict[str, Any] = {
    "image": "registry.example.com:5000/team/app@sha256:" + "0" * 64,
    "kind": "StatefulSet",
    "replicas": 5,
    "port": 9000,
    "peerPort": 9001,
    "probePath": "/alive?deep=no",
    "env": [
        {"name": "NOTE", "value": 'a "quoted" text: {no} #comment'},
        {"name": "POD_IP", "valueFrom": {"fieldRef": {"fieldPath": "status.podIP"}}},
    ],
    "podAnnotations": {"prometheus.io/scrape": "true"},
    "runAsUser": 65532,
    "volumes": [{"name": "tmp", "emptyDir": {}}],
    "volumeMounts": [{"name": "tmp", "mountPath": "/tmp"}],  # noqa: S108 - of a container
    "pod": {"nodeSelector": {"disk": "ssd"}, "imagePullSecrets": [{"name": "registry"}]},
    "namespace": "games",
    "redis": {"secret": "directory", "key": "url"},
    "peers": {"secret": "peers", "key": "secret"},
    "provenDeaths": True,
    "drain": {
        "preStopSeconds": 10,
        "deadlineSeconds": 0,
        "shutdownSeconds": 3,
        "stopSeconds": 8,
        "graceSeconds": 0,
    },
    "gateway.replicas": 4,
    "gateway.requestSeconds": 120,
    "gateway.args": ["--restores"],
    "gateway.image": "gateway:2",
    "front.type": "LoadBalancer",
    "front.annotations": {"example.com/internal": "true"},
    "autoscaler": {"enabled": True, "minReplicas": 2, "maxReplicas": 4, "linksPerPod": 1_000_000},
    "scaler.enabled": True,
    "networkPolicy.from": [{"podSelector": {"matchLabels": {"app": "ingress"}}}],
}
WAYS: dict[str, Callable[[], list[Manifest]]] = {
    **{name: partial(rendered, name) for name in FILES},
    "odd": partial(rendered, release="board", values=ODD),
    "everything": partial(rendered, "statefulset", "proven-deaths", "run", "autoscale"),
    "long drain": partial(rendered, "autoscale", values={"drain.deadlineSeconds": 600}),
}
RULES: list[Callable[[list[Manifest]], None]] = [
    rules.references,
    rules.commands,
    rules.confined,
    rules.disruptions,
]

every_way = pytest.mark.parametrize("manifests", [pytest.param(way, id=name) for name, way in WAYS.items()])


# The same as the kustomizations ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("folder", FOLDERS, ids=lambda folder: folder.name)
def test_same(folder: Path) -> None:
    """By default it prints what ``base`` has, and with the values of an overlay what that has: all but the names."""
    values = () if folder.name == "base" else (folder.name,)

    def by_name(manifests: list[Manifest]) -> dict[str, Manifest]:
        found = {f"{each['kind']} {each['metadata']['name']}": each for each in manifests}
        assert len(found) == len(manifests)
        return found

    assert by_name(render(folder)) == by_name(rendered(*values))


def test_names() -> None:
    """Two releases have nothing in common, whatever their names look like, and say no namespace of Kubernetes."""

    def names(release: str) -> set[tuple[str, str]]:
        manifests = _parsed("autoscale", "statefulset", release=release)
        return {(each["kind"], each["metadata"]["name"]) for each in manifests}

    assert not names("tea") & names("123")
    assert {name.partition("-")[0] for _, name in names("123")} == {"123"}
    assert "namespace:" not in printed("autoscale").replace("kubernetes.io/metadata.name", "")


def test_selected_by_the_release() -> None:
    """No pod, and no policy, of a release speaks of an app of another one."""
    text = printed("autoscale", "statefulset", release="tea", values={"service": "s", "uid": "header:x"})

    assert set(re.findall(r"\bapp: \"?([a-z-]+)", text)) == {"tea", "tea-gateway", "tea-valkey", "tea-scaler"}
    assert not re.search(r"\broom\b", text.replace("room:1", ""))


# By the rules -------------------------------------------------------------------------------------------------------


@every_way
@pytest.mark.parametrize("version", [rules.VERSIONS[0], rules.VERSIONS[-1]])
def test_schemas(manifests: Callable[[], list[Manifest]], version: str) -> None:
    """Each manifest is one by the schema of Kubernetes, strictly."""
    rules.schemas(manifests(), version)


@every_way
@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.__name__)
def test_rules(manifests: Callable[[], list[Manifest]], rule: Callable[[list[Manifest]], None]) -> None:
    """The rules for the kustomizations hold for the chart with other values."""
    rule(manifests())


@every_way
def test_ends_in_time(manifests: Callable[[], list[Manifest]], request: pytest.FixtureRequest) -> None:
    """The grace period follows from the times of the drain."""
    rules.grace(manifests(), under_way=120 if "odd" in request.node.name else 30)


@every_way
def test_network(manifests: Callable[[], list[Manifest]], request: pytest.FixtureRequest) -> None:
    """The policies admit what is needed, and no more."""
    way = request.node.name
    users = "ingress" if "odd" in way or "own" in way else "outside"
    rules.network(manifests(), users, redis="10.1.2.0/24" if "own" in way else "valkey")


def test_probes() -> None:
    """They follow the path, or are connections; with any of them a start may take its time."""
    rules.probes(rendered("own"), path=None)
    rules.probes(rendered(release="board", values=ODD), path="/alive?deep=no")


def test_variables() -> None:
    """Each variable is one that somebody reads; those of the app come last."""
    rules.variables(rendered(release="board", values=ODD), "NOTE", "POD_IP")
    (pod,) = templates(rendered(release="board", values=ODD))["room"]["spec"]["containers"]

    assert ["NOTE", "POD_IP"] == [each["name"] for each in pod["env"]][-2:]
    assert ODD["env"] == pod["env"][-2:]


@pytest.mark.parametrize("values", [(), ("statefulset",), ("run",)])
def test_autoscaled(values: tuple[str, ...]) -> None:
    """The autoscaler has the rules of the overlay, whatever it scales."""
    rules.autoscaled(rendered("autoscale", *values))


def test_values_arrive() -> None:
    """What is set is where it belongs."""
    manifests = rendered(release="board", values=ODD)
    pods = templates(manifests)
    (app,), (deaths,) = pods["room"]["spec"]["containers"], pods["room"]["spec"]["initContainers"]
    (gateway,) = pods["gateway"]["spec"]["containers"]
    env = {each["name"]: each for each in app["env"]}
    command = "uvicorn app:app --host 0.0.0.0 --port 9000 --timeout-graceful-shutdown 3"

    assert command == shlex.join(app["command"])
    assert (ODD["image"], "gateway:2", "gateway:2") == (app["image"], gateway["image"], deaths["image"])
    assert {"name": "directory", "key": "url"} == env["STATEFUL_ROUTE_URL"]["valueFrom"]["secretKeyRef"]
    assert {"name": "peers", "key": "secret"} == env["STATEFUL_ROUTE_SECRET"]["valueFrom"]["secretKeyRef"]
    assert "0" == env["STATEFUL_ROUTE_DRAIN_DEADLINE"]["value"]  # 0 is a deadline too
    assert "8" == env["STATEFUL_ROUTE_STOP_DEADLINE"]["value"]
    for container in (app, gateway, deaths, pods["scaler"]["spec"]["containers"][0]):
        assert {"name": "STATEFUL_ROUTE_NAMESPACE", "value": "games"} in container["env"]
    assert all({"disk": "ssd"} == template["spec"]["nodeSelector"] for template in pods.values())
    assert 10 + 0 + 1 + 3 + 8 + 9 == pods["room"]["spec"]["terminationGracePeriodSeconds"]
    assert "--restores" == gateway["command"][-1]
    assert 4 == named(manifests, "Deployment", "gateway")["spec"]["replicas"]
    assert "LoadBalancer" == named(manifests, "Service", "gateway")["spec"]["type"]
    assert {"lives": "/lives", "tmp": "/tmp"} == {each["name"]: each["mountPath"] for each in app["volumeMounts"]}  # noqa: S108 - of a container


def test_an_app_of_another_language() -> None:
    """It runs under ``run`` with its own port, behind a Service of its own; there is no gateway, and no Valkey."""
    manifests = rendered("own")
    (app,) = templates(manifests)["room"]["spec"]["containers"]

    assert {"room"} == set(templates(manifests))
    assert {"app": "room"} == named(manifests, "Service", "room")["spec"]["selector"]
    assert app["command"][-5:] == ["--", "node", "server.js", "--port", "{port}"]
    assert "--health" not in app["command"]
    assert 5 + 300 + 1 + 2 * 10 + 5 + 9 == templates(manifests)["room"]["spec"]["terminationGracePeriodSeconds"]
    policies = rules.Network(manifests)
    assert policies.admits("room", "10.1.3.0/24", 5432)
    assert all(policies.admits("room", "10.1.2.0/24", port) for port in (6379, 26379))
    assert not policies.admits("room", "10.1.2.0/24", 5432)


def test_without_policies() -> None:
    """They can be left to others."""
    assert "NetworkPolicy" not in {
        each["kind"] for each in rendered("autoscale", values={"networkPolicy.enabled": False})
    }


# Wrong values -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "value", "said"),
    [
        ("replicas", "three", ["replicas", "integer"]),
        ("replicas", 0, ["replicas", "1"]),
        ("replcias", 3, ["replcias", "not allowed"]),
        ("drain.deadline", 3, ["drain", "deadline", "not allowed"]),
        ("drain.deadlineSeconds", 1.5, ["drain", "deadlineSeconds", "integer"]),
        ("drain.preStopSeconds", 2, ["drain", "preStopSeconds", "4"]),
        ("drain.stopSeconds", None, ["drain", "stopSeconds"]),
        ("drain.graceSeconds", 40, ["drain.graceSeconds: 40 is less than the 41 that the end of a pod can take"]),
        ("gateway", None, ["gateway"]),
        ("gateway.enabled", "yes", ["gateway", "enabled", "boolean"]),
        ("kind", "DaemonSet", ["kind", "one of", "Deployment", "StatefulSet"]),
        ("image", "", ["image"]),
        ("image", {"repository": "room", "tag": "1"}, ["image", "string"]),
        ("command", ["uvicorn", "app:app"], ["command: uvicorn without --timeout-graceful-shutdown waits for ever"]),
        ("command", ["--port", 8000], ["command", "1", "string"]),
        ("command", [], ["command", "at least 1"]),
        ("port", 80, ["port", "1024"]),
        ("port", 7946, ["peerPort: 7946 is also port"]),
        ("front.port", 70000, ["front", "port", "65535"]),
        ("uid", "x-session-id", ["uid", "match pattern"]),
        ("service", "my room", ["service", "match pattern"]),
        ("probePath", "healthz", ["probePath", "match pattern"]),
        ("runAsUser", 0, ["runAsUser", "1"]),
        ("env", [{"name": "LEVEL", "value": 3}], ["env", "0", "value", "string"]),
        ("env", {"LEVEL": "3"}, ["env", "array"]),
        ("env", [{"name": "STATEFUL_ROUTE_DRAIN_DEADLINE", "value": "60"}], ["STATEFUL_ROUTE_DRAIN_DEADLINE follows"]),
        (
            "gateway.env",
            [{"name": "STATEFUL_ROUTE_URL", "value": "redis://x"}],
            ["STATEFUL_ROUTE_URL follows from redis"],
        ),
        ("podAnnotations", {"prometheus.io/scrape": True}, ["podAnnotations", "scrape", "string"]),
        ("autoscaler.minReplicas", 31, ["autoscaler.minReplicas: 31 is more than maxReplicas, 30"]),
        ("redis.secret", "redis://app:password@host", ["redis", "secret", "match pattern"]),
        ("pod", {"volumes": []}, ["pod", "volumes", "not allowed"]),
    ],
)
def test_wrong_values(name: str, value: Any, said: list[str]) -> None:
    """A wrong value is named, with what is allowed, and nothing is printed that could be applied.

    What the schema says is in other words in each version of Helm.
    """
    with pytest.raises(Refused) as refused:
        printed(values={name: value})
    text = str(refused.value)

    assert [] == [word for word in said if word not in text], text
    assert "apiVersion" not in text


def test_wrong_cluster_and_name() -> None:
    """An older Kubernetes, and a name that no Service can have, are refused too."""
    with pytest.raises(Refused, match=r"chart requires kubeVersion: >=1.30.0-0"):
        helm("template", "room", CHART, "--kube-version", "1.29.5")
    with pytest.raises(Refused, match="has a dot"):
        printed(release="tea.room")
    assert printed(release="room", values={"global": {"a": 1}}) == printed()  # as a part of another chart


# The chart itself ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("values", [None, *FILES])
def test_lint(values: str | None) -> None:
    """Helm finds nothing to warn of."""
    more = () if values is None else ("--values", VALUES / f"{values}.yaml")

    assert "0 chart(s) failed" in helm("lint", "--strict", CHART, *more)


def test_small() -> None:
    """It stays one that can be read; all values have a line in values.yaml and a place in the schema."""
    lines = sum(len(path.read_text(encoding="utf-8").splitlines()) for path in (CHART / "templates").iterdir())
    (values,) = read(CHART / "values.yaml")
    schema = json.loads((CHART / "values.schema.json").read_text(encoding="utf-8"))

    def names(properties: dict[str, Any]) -> set[str]:
        own = {
            f"{name}.{each}" for name, of in properties.items() for each in of.get("properties", ()) if name != "pod"
        }
        return {*properties, *own} - {"global"}

    def said(of: dict[str, Any]) -> set[str]:
        free = {"resources", "podAnnotations"}
        return {
            *of,
            *(f"{a}.{b}" for a, inner in of.items() if isinstance(inner, dict) and a not in free for b in inner),
        }

    assert lines <= 355
    assert said(values) == names(schema["properties"]) | {
        "redis.secret", "redis.key", "peers.secret", "peers.key"
    }  # fmt: skip
    for path in (CHART / "templates").iterdir():
        text = path.read_text(encoding="utf-8")
        for used in re.findall(r"\.Values\.([a-z][A-Za-z.]*)", text):
            assert used in said(values) or used.rpartition(".")[0] in said(values), used


def test_hosts() -> None:
    """No host but those of the documentation is named, and nothing is fetched: it has no dependencies."""
    (about,) = read(CHART / "Chart.yaml")
    text = "\n".join(path.read_text(encoding="utf-8") for path in CHART.rglob("*") if path.is_file())
    hosts = set(re.findall(r"[a-z]+://([\w.-]+)", text))
    registries = {each for each in re.findall(r"image: ([^/\s]+)/", text) if "." in each}

    assert "dependencies" not in about
    assert {"json-schema.org", "0.0.0.0"} == hosts  # noqa: S104 - of a container
    assert {"registry.example.com"} == registries


def notes(tmp_path: Path, *files: str) -> str:
    """Return what Helm says at the end of an install; a template may be printed without a cluster, the notes not."""
    chart = tmp_path / "chart"
    shutil.copytree(CHART, chart)
    (chart / "templates" / "NOTES.txt").rename(chart / "NOTES")
    (chart / "templates" / "notes.yaml").write_text('text: {{ tpl (.Files.Get "NOTES") . | toJson }}\n')
    text = printed(*files, chart=chart)
    (found,) = (each["text"] for each in yaml.safe_load_all(text) if "text" in each)
    return str(found)


@pytest.mark.parametrize("files", [(), ("own",), ("statefulset", "proven-deaths")], ids=str)
def test_notes(tmp_path: Path, files: tuple[str, ...]) -> None:
    """They name three commands, of things that are there, with options that there are."""
    text = notes(tmp_path, *files)
    rollout, asked, forward = (shlex.split(line) for line in text.splitlines() if line.startswith("  kubectl "))
    manifests = {f"{each['kind']}/{each['metadata']['name']}".lower(): each for each in _parsed(*files)}
    (port,) = manifests[forward[-2]]["spec"]["ports"]

    assert ["kubectl", "-n", "default", "rollout", "status"] == rollout[:-1]
    assert {rollout[-1], asked[4]} <= set(manifests)
    assert make_app().parse_args(asked[asked.index("--") + 2 :], exit_on_error=False)
    assert f"8000:{port['port']}" == forward[-1]
    assert "secrets.sh room" in text


def _parsed(*files: str, release: str = "room") -> list[Manifest]:
    """Return the manifests with their own names."""
    return list(yaml.safe_load_all(printed(*files, release=release)))


@pytest.mark.skipif(shutil.which("openssl") is None, reason="openssl is not there")
def test_secrets_of_a_release(tmp_path: Path) -> None:
    """secrets.sh makes, for the name of a release, the Secrets that its pods want."""
    made = make_secrets(tmp_path, "tea")
    manifests = _parsed("autoscale", "proven-deaths", release="tea")
    wanted = {(reference["name"], reference["key"]) for reference in _references(manifests)}
    (volume,) = templates(manifests)["tea-valkey"]["spec"]["volumes"]

    assert {("tea", "redis-url"), ("tea", "peer-secret")} == wanted == {("tea", key) for key in made["tea"]}
    assert {"users.acl"} == set(made[volume["secret"]["secretName"]])
    assert made["tea"]["redis-url"].endswith("@tea-valkey")
    assert named(manifests, "Service", "tea-valkey")


def _references(value: Any) -> list[dict[str, str]]:
    if isinstance(value, dict):
        own = [value["secretKeyRef"]] if "secretKeyRef" in value else []
        return own + [found for each in value.values() for found in _references(each)]
    return [found for each in value for found in _references(each)] if isinstance(value, list) else []
