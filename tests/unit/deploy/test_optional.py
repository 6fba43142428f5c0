"""The chart's optional objects: what they refer to is there, and what several of them say alike is alike."""

from __future__ import annotations

import re
from typing import Any

import pytest
import yaml

from tests.unit.deploy.charts import ROOT, Helm, Object, env_of, one, pod_of
from vllm_engine.config.environment import Environment
from vllm_engine.config.settings import load_settings

KEYS = {"apiKeys": {"existingSecret": "keys"}}
GATEWAY = {"httpRoute": {"enabled": True, "parentRefs": [{"name": "gateway"}]}}
ROUTER: dict[str, Any] = {"router": {"enabled": True}, "shutdown": {"lameDuckSeconds": 15}}
POOL = {"inferencePool": {"enabled": True, "endpointPicker": {"name": "picker"}}}
GROUPS = {
    "multiNode": {"enabled": True},
    "parallel": {"tensor": 8, "pipeline": 2},
    "networkPolicy": {"enabled": True},
}
HEAD = {"leaderworkerset.sigs.k8s.io/worker-index": "0"}


@pytest.mark.parametrize(
    ("values", "backend", "path"),
    [
        ({}, {"kind": "Service", "name": "vllm-engine", "port": 8000}, "/"),
        (ROUTER, {"kind": "Service", "name": "vllm-engine-router", "port": 8000}, "/v1"),
        (POOL, {"kind": "InferencePool", "group": "inference.networking.k8s.io", "name": "vllm-engine"}, "/"),
    ],
)
def test_routes(newest_helm: Helm, values: dict[str, Any], backend: Object, path: str) -> None:
    """They lead to an object of the release; of the router only to the API, whose own administration has no key."""
    found = newest_helm.render(KEYS | GATEWAY | values | {"ingress": {"enabled": True}})
    (rule,) = one(found, "HTTPRoute")["spec"]["rules"]
    assert rule["backendRefs"] == [backend]
    assert rule["matches"] == [{"path": {"type": "PathPrefix", "value": path}}]
    assert (backend["kind"], backend["name"]) in {(each["kind"], each["metadata"]["name"]) for each in found}
    (host,) = one(found, "Ingress")["spec"]["rules"]
    (entry,) = host["http"]["paths"]
    assert (entry["path"], "host" in host) == (path, False)
    service = entry["backend"]["service"]["name"]
    assert one([each for each in found if each["metadata"]["name"] == service], "Service")


def test_limits_in_front_are_the_programs(newest_helm: Helm) -> None:
    """A body that the program takes passes the Ingress and the router; nginx neither buffers nor gives up on a stream."""
    found = newest_helm.render(
        KEYS | ROUTER | {"ingress": {"enabled": True}, "settings": {"MAX_BODY_BYTES": 1_000_000}}
    )
    annotations = one(found, "Ingress")["metadata"]["annotations"]
    nginx = {key.removeprefix("nginx.ingress.kubernetes.io/proxy-"): one for key, one in annotations.items()}
    assert nginx == {
        "body-size": "1000000",
        "buffering": "off",
        "request-buffering": "off",
        "read-timeout": "3600",
        "send-timeout": "3600",
    }
    router = one(found, "Deployment", "-router")["spec"]["template"]["spec"]
    assert "--max-payload-size=1000000" in router["containers"][0]["args"]
    assert router["terminationGracePeriodSeconds"] == pod_of(found)["terminationGracePeriodSeconds"]
    (default,) = [load_settings(Environment({}, {})).max_body_bytes]
    assert f"--max-payload-size={default}" in str(newest_helm.render(ROUTER))


def test_router_has_the_options_of_compose(newest_helm: Helm) -> None:
    """docs/deploy/replicas.md has their reasons, and the tests with real engines use them."""
    compose = yaml.safe_load((ROOT / "deploy/router/compose.yaml").read_text())["services"]
    replicas, *options = compose["router"]["command"]
    wanted = [f"{name}={value}" for name, value in zip(options[::2], options[1::2], strict=True)]
    found = newest_helm.render(ROUTER)
    template = one(found, "Deployment", "-router")["spec"]["template"]
    (router,) = template["spec"]["containers"]
    metrics = {str(port["containerPort"]) for port in router["ports"] if port["name"] == "metrics"}
    assert {template["metadata"]["annotations"]["prometheus.io/port"]} == metrics
    there, *arguments = router["args"]
    assert arguments == [re.sub(r"\$\{\w+:-(.*)\}", r"\1", each) for each in wanted]
    assert replicas == "http://engine:8000"
    assert there == f"http://{one(found, 'Service', '-headless')['metadata']['name']}:8000"
    least = next(each for each in compose["engine"]["environment"] if each.startswith("LAME_DUCK_SECONDS"))
    assert str(ROUTER["shutdown"]["lameDuckSeconds"]) in least


def test_rules_are_those_of_deploy_observability(newest_helm: Helm) -> None:
    found = newest_helm.render({"prometheusRule": {"enabled": True}, "serviceMonitor": {"enabled": True}})
    rules = yaml.safe_load((ROOT / "deploy/observability/rules.yml").read_text())
    assert one(found, "PrometheusRule")["spec"] == rules
    (endpoint,) = one(found, "ServiceMonitor")["spec"]["endpoints"]
    jobs = set(re.findall(r'job="([^"]+)"', str(rules)))
    assert jobs == {each["replacement"] for each in endpoint["relabelings"] if each["targetLabel"] == "job"}


def test_monitor_selects_the_service_of_all_pods(newest_helm: Helm) -> None:
    found = newest_helm.render({"serviceMonitor": {"enabled": True}})
    monitor, service = one(found, "ServiceMonitor")["spec"], one(found, "Service", "-headless")
    assert monitor["selector"]["matchLabels"].items() <= service["metadata"]["labels"].items()
    assert monitor["endpoints"][0]["port"] in {port["name"] for port in service["spec"]["ports"]}
    others = [each for each in found if each["kind"] == "Service" and each is not service]
    assert not any(
        monitor["selector"]["matchLabels"].items() <= each["metadata"]["labels"].items() for each in others
    )
    annotations = one(found, "Deployment")["spec"]["template"]["metadata"].get("annotations", {})
    assert "prometheus.io/scrape" not in annotations  # or each pod would be scraped twice


def test_scaling_asks_for_metrics_that_exist(newest_helm: Helm) -> None:
    known = (ROOT / "docs/operate/metrics.md").read_text()
    known += (ROOT / "deploy/observability/vllm-metrics.json").read_text()
    prometheus = {"enabled": True, "serverAddress": "http://prometheus:9090"}
    found = newest_helm.render(
        {"keda": prometheus, "serviceMonitor": {"enabled": True}, "cache": {"type": "emptyDir"}}
    )
    scaled = one(found, "ScaledObject")["spec"]
    (trigger,) = scaled["triggers"]
    # One sum over both: a sum of its own is nothing where no engine runs, and so are both together.
    (names,) = re.findall(r'^sum\(\{__name__=~"(\S+?)",', trigger["metadata"]["query"])
    assert names == "vllm:num_requests_waiting|gateway_waiting"
    assert all(name in known for name in names.split("|"))
    assert (
        f'service="{one(found, "Service", "-headless")["metadata"]["name"]}"' in trigger["metadata"]["query"]
    )
    target = one(found, scaled["scaleTargetRef"]["kind"])
    assert target["metadata"]["name"] == scaled["scaleTargetRef"]["name"]
    assert "replicas" not in target["spec"]


def test_network_policies(newest_helm: Helm) -> None:
    """What is not listed is refused, both ways; the release's own pods reach what they need."""
    found = newest_helm.render(ROUTER | GROUPS | {"networkPolicy": {"enabled": True, "apiFrom": []}})
    engine, router = (
        one(found, "NetworkPolicy", "engine")["spec"],
        one(found, "NetworkPolicy", "router")["spec"],
    )
    assert engine["policyTypes"] == router["policyTypes"] == ["Ingress", "Egress"]
    template = one(found, "Deployment", "-router")["spec"]["template"]
    assert _let_in(engine, template["metadata"]["labels"]) == [[{"port": "http"}]]
    assert _let_in(engine, one(found, "Pod")["metadata"]["labels"]) == [[{"port": "http"}]]
    assert _let_in(engine, engine["podSelector"]["matchLabels"]) == [None]  # every port
    assert {"to": [{"podSelector": engine["podSelector"]}]} in engine["egress"]
    assert router["egress"][1]["to"] == [{"podSelector": engine["podSelector"]}]
    assert _let_in(router, engine["podSelector"]["matchLabels"]) == []

    # What may use the API reaches the router, and not the pods behind it.
    peers = [{"namespaceSelector": {"matchLabels": {"a": "b"}}}]
    found = newest_helm.render(ROUTER | {"networkPolicy": {"enabled": True, "apiFrom": peers}})
    named = {each["metadata"]["name"]: each["spec"] for each in found if each["kind"] == "NetworkPolicy"}
    assert {name: peers in [rule["from"] for rule in spec["ingress"]] for name, spec in named.items()} == {
        "vllm-engine": False,
        "vllm-engine-router": True,
    }


def test_a_drain_takes_one_pod_at_a_time(newest_helm: Helm) -> None:
    """Of the engine and of the router: each budget has the pods of one of them."""
    found = newest_helm.render(ROUTER | {"podDisruptionBudget": {"enabled": True}})
    budgets = [each["spec"] for each in found if each["kind"] == "PodDisruptionBudget"]
    deployments = [each["spec"] for each in found if each["kind"] == "Deployment"]
    assert sorted(str(each["selector"]) for each in budgets) == sorted(
        str(each["selector"]) for each in deployments
    )
    assert [each["maxUnavailable"] for each in budgets] == [1, 1]


def _let_in(policy: Object, labels: dict[str, str]) -> list[Any]:
    """Return the ports of each rule that names pods of the namespace with these labels."""
    return [
        rule.get("ports")
        for rule in policy["ingress"]
        for peer in rule["from"]
        if "podSelector" in peer and peer["podSelector"]["matchLabels"].items() <= labels.items()
    ]


def test_pool(newest_helm: Helm) -> None:
    """The picker finds the pods, and reads metrics without a key."""
    found = newest_helm.render(KEYS | POOL)
    pool, template = one(found, "InferencePool")["spec"], one(found, "Deployment")["spec"]["template"]
    assert pool["selector"]["matchLabels"].items() <= template["metadata"]["labels"].items()
    assert template["metadata"]["labels"]["llm-d.ai/engine-type"] == "vllm"
    settings = load_settings(Environment(env_of(found), {}))
    assert settings.is_metrics_public and settings.health_port is not None
    assert pool["targetPorts"] == [{"number": settings.port}]


def test_groups_of_nodes(newest_helm: Helm) -> None:
    found = newest_helm.render(GROUPS | POOL | {"serviceMonitor": {"enabled": True}})
    groups = one(found, "LeaderWorkerSet")
    template = groups["spec"]["leaderWorkerTemplate"]
    assert not [each for each in found if each["kind"] in ("Deployment", "StatefulSet")]
    # LeaderReady would wait for ever, and recreating the head would lose the requests that it keeps.
    assert (groups["spec"]["startupPolicy"], template["restartPolicy"]) == ("LeaderCreated", "None")
    # The controller makes a headless Service of the set's name, unless there is another one of that name.
    assert groups["metadata"]["name"] not in {
        each["metadata"]["name"] for each in found if each["kind"] == "Service"
    }
    filled = {"LWS_GROUP_SIZE": template["size"], "LWS_WORKER_INDEX": 1, "LWS_LEADER_ADDRESS": "x-0.x.ns"}
    env = {
        name: re.sub(r"\$\((\w+)\)", lambda match: str(filled[match[1]]), value)
        for name, value in env_of(found).items()
    }
    settings = load_settings(Environment(env, {}))
    assert settings.is_worker
    assert (settings.nodes, settings.node_rank, settings.head_address) == (2, 1, "x-0.x.ns")
    assert (settings.tensor_parallel, settings.pipeline_parallel) == (8, 2)
    (container,) = pod_of(found)["containers"]
    assert container["resources"]["limits"]["nvidia.com/gpu"] == 8 * 2 / 2
    # Workers have no API.
    selectors = [each["spec"]["selector"] for each in found if each["kind"] == "Service"]
    assert all(each.items() >= HEAD.items() for each in selectors)
    assert one(found, "InferencePool")["spec"]["selector"]["matchLabels"].items() >= HEAD.items()


def test_names_leave_room_for_what_is_added(newest_helm: Helm) -> None:
    """A StatefulSet's name and a hash of 11 characters become a label, which has at most 63."""
    found = newest_helm.render(GROUPS | ROUTER, name="a" * 53)
    assert len(f"{one(found, 'LeaderWorkerSet')['metadata']['name']}-99") <= 63 - 11
    assert all(len(each["metadata"]["name"]) <= 63 for each in found)
