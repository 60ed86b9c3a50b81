"""Every host:port in a manifest is answered."""

import copy

import pytest

from deploy_support.addresses import OUTSIDE, addresses_in, unknown_addresses
from deploy_support.builds import EXAMPLES, REGIONS, WHOLE, build


@pytest.mark.parametrize("name", WHOLE)
def test_every_address_is_answered(name: str) -> None:
    assert unknown_addresses(build(name)) == []


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("vector_db_url", "qdrant://qdrants:6334"),
        ("scylladb_url", "cql://scylladb:9142/recommendation"),
        ("kafka_brokers", "kafka-broker-0:9092"),
        ("agentdb_url", "agentdb:8888"),
        ("vector_search_endpoint", "dns:///vector-search:50052"),
        ("redis_url", "redis://redis-9.redis:6379"),
    ],
)
def test_a_wrong_address_is_found(key: str, value: str) -> None:
    broken = copy.deepcopy(build(EXAMPLES))
    broken.get("ConfigMap", "service-endpoints")["data"][key] = value
    host, port = next(addresses_in(value))
    assert any(problem.endswith(f"nobody answers {host}:{port}") for problem in unknown_addresses(broken))


def test_a_peer_that_is_not_there_is_found() -> None:
    broken = copy.deepcopy(build(EXAMPLES))
    broken.get("StatefulSet", "kafka-broker")["spec"]["replicas"] = 2
    assert any("kafka-broker-3.kafka-peers:9093" in problem for problem in unknown_addresses(broken))


def test_the_mirrored_region_offers_what_the_others_ask_for() -> None:
    primary = build(REGIONS[0])
    offered = {
        f"{each['metadata']['annotations']['external-dns.alpha.kubernetes.io/hostname']}:{each['spec']['ports'][0]['port']}"
        for each in primary.all("Service")
        if each["metadata"]["name"].endswith("-mirrors")
    }
    domain = primary.get("ConfigMap", "kafka-domain")["data"]["domain"]
    advertised = primary.get("ConfigMap", "kafka-broker")["data"]["server.properties"]
    assert "MIRRORS://@HOSTNAME@.@DOMAIN@:9095" in advertised
    assert offered == {f"kafka-broker-{number}.{domain}:9095" for number in (1, 2, 3)}
    for region in REGIONS[1:]:
        properties = dict(
            line.split(" = ", 1)
            for line in build(region).get("ConfigMap", "mirror-maker")["data"]["mm2.properties"].splitlines()
            if " = " in line
        )
        assert set(properties["primary.bootstrap.servers"].split(",")) == offered
        assert set(properties["@REGION@.bootstrap.servers"].split(",")) == set(
            build(region).get("ConfigMap", "service-endpoints")["data"]["kafka_brokers"].split(",")
        )
    assert offered <= OUTSIDE.keys()
