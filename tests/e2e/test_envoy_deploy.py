"""Deployment examples: Envoy takes them as they are, and what they name exists."""

from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.gateway.envoy import DEPLOY, Config, EnvoyProcess, cluster, lead, validate
from tests.gateway.stack import PROFILES, PublicApis, another_envoy, edge_address
from tollkeeper_server.settings import PREFIX, Settings

PROXY = DEPLOY / "envoy" / "service-key-proxy.yaml"


def documents(path: str) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = list(yaml.safe_load_all((DEPLOY / path).read_text()))
    return found


KUBERNETES = {(each["kind"], each["metadata"]["name"]): each for each in documents("kubernetes/tollkeeper.yaml")}
POD = KUBERNETES["Deployment", "tollkeeper"]["spec"]["template"]["spec"]
SERVER, SIDECAR = POD["containers"]


def proxy(*, service_key_file: Path, edge: str) -> Config:
    """The proxy that shows the service key, as it is shipped but for paths and addresses."""
    config: Config = yaml.safe_load(PROXY.read_text())
    static = config["static_resources"]
    static["secrets"][0]["generic_secret"]["secret"]["filename"] = str(service_key_file)
    config["admin"]["address"]["socket_address"]["port_value"] = 0
    static["listeners"][0]["address"]["socket_address"] = {"address": "127.0.0.1", "port_value": 0}
    lead(cluster(config, "tollkeeper-edge"), [edge])
    return config


@pytest.mark.parametrize("name", ["envoy.yaml", "service-key-proxy.yaml"])
def test_envoy_takes_its_configuration_as_it_is_shipped(tmp_path: Path, name: str) -> None:
    (tmp_path / "key").write_text("tk_")
    shipped = (DEPLOY / "envoy" / name).read_text()
    descriptor_set = DEPLOY.parents[1] / "protos" / "tollkeeper.v1.binpb"
    for path in ("/etc/envoy/tollkeeper-service-key", "/etc/envoy/secret/service-key"):
        shipped = shipped.replace(path, str(tmp_path / "key"))
    (tmp_path / name).write_text(shipped.replace("/etc/envoy/tollkeeper.v1.binpb", str(descriptor_set)))
    validated = validate(tmp_path / name)
    assert (validated.returncode, "OK" in validated.stderr + validated.stdout) == (0, True), validated.stderr
    assert "deprecated" not in validated.stderr.lower()


def test_a_gateway_without_a_key_is_served_through_the_proxy_and_not_without_it(apis: PublicApis) -> None:
    def without_key(config: Config) -> None:
        options = cluster(config, "tollkeeper-edge")["typed_extension_protocol_options"]
        del next(iter(options.values()))["http_filters"]

    created = apis.client.create_key(tenant_id="conduit")
    headers = [("authorization", f"Bearer {created.api_key}")]
    with another_envoy(apis, without_key) as bare:
        assert bare.ask("conduit", "/v1/models", headers=headers).status == 503
    config = proxy(service_key_file=apis.service_key_file, edge=edge_address(apis.server))
    with EnvoyProcess(config) as beside:

        def through_proxy(config: Config) -> None:
            without_key(config)
            lead(cluster(config, "tollkeeper-edge"), [f"127.0.0.1:{beside.ports['gateways']}"])

        with another_envoy(apis, through_proxy) as gateway:
            assert gateway.ask("conduit", "/v1/models", headers=headers).status == 200
            assert gateway.ask("conduit", "/v1/models").status == 401
            assert gateway.envoy.stat("cluster.tollkeeper-edge.membership_healthy") == 1


def test_every_setting_of_the_manifests_is_one() -> None:
    named = {variable["name"] for variable in SERVER["env"]}
    assert named <= {PREFIX + name.upper() for name in Settings.model_fields}
    values = {variable["name"]: variable["value"] for variable in SERVER["env"]}
    waits = float(values["TOLLKEEPER_DRAIN_SECONDS"]) + float(Settings.model_fields["grace_seconds"].default)
    assert SIDECAR["lifecycle"]["preStop"]["sleep"]["seconds"] >= waits
    assert POD["terminationGracePeriodSeconds"] > waits


def test_ports_are_the_same_everywhere() -> None:
    ports = {port["name"]: port["containerPort"] for each in (SERVER, SIDECAR) for port in each["ports"]}
    listening = {
        variable["name"]: int(variable["value"].rpartition(":")[2])
        for variable in SERVER["env"]
        if variable["name"].endswith("LISTEN")
    }
    proxy_config = yaml.safe_load(PROXY.read_text())
    address = proxy_config["static_resources"]["listeners"][0]["address"]["socket_address"]
    assert ports == {
        "grpc": listening["TOLLKEEPER_LISTEN"],
        "grpc-edge": listening["TOLLKEEPER_EDGE_LISTEN"],
        "metrics": listening["TOLLKEEPER_METRICS_LISTEN"],
        "grpc-gateways": address["port_value"],
    }
    (endpoint,) = cluster(proxy_config, "tollkeeper-edge")["load_assignment"]["endpoints"][0]["lb_endpoints"]
    assert endpoint["endpoint"]["address"]["socket_address"]["port_value"] == ports["grpc-edge"]
    for (kind, _), manifest in KUBERNETES.items():
        if kind == "Service":
            assert all(port["port"] == ports[port["targetPort"]] for port in manifest["spec"]["ports"])


def test_gateways_are_led_to_a_service_that_exists() -> None:
    services = {
        f"{name}.tollkeeper.svc.cluster.local": [port["port"] for port in manifest["spec"]["ports"]]
        for (kind, name), manifest in KUBERNETES.items()
        if kind == "Service"
    }
    (mesh,) = documents("istio/mesh-config.yaml")
    (provider,) = mesh["spec"]["meshConfig"]["extensionProviders"]
    grpc = provider["envoyExtAuthzGrpc"]
    assert grpc["port"] in services[grpc["service"]]
    custom, _, deny = documents("istio/tollkeeper.yaml")
    assert custom["spec"]["provider"]["name"] == provider["name"]
    assert deny["spec"]["rules"][0]["to"][0]["operation"]["ports"] == [str(grpc["port"])]
    policy, grant, _ = documents("envoy-gateway/tollkeeper.yaml")
    (backend,) = policy["spec"]["extAuth"]["grpc"]["backendRefs"]
    assert backend["port"] in services[f"{backend['name']}.{backend['namespace']}.svc.cluster.local"]
    assert [each["name"] for each in grant["spec"]["to"]] == [backend["name"]]
    named = {each["name"]: each["value"] for each in policy["spec"]["extAuth"]["contextExtensions"]}
    assert (PROFILES / f"{named['profile']}.yaml").exists()


def test_what_a_pod_mounts_is_what_the_read_me_says_to_create() -> None:
    readme = (DEPLOY / "README.md").read_text()
    for volume in POD["volumes"]:
        name = volume.get("configMap", {}).get("name") or volume["secret"]["secretName"]
        assert f" {name} " in readme
    mounted = {mount["name"] for each in (SERVER, SIDECAR) for mount in each["volumeMounts"]}
    assert mounted == {volume["name"] for volume in POD["volumes"]}
