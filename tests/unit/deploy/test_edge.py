"""The CDN keeps what the gateway calls public and nothing else; Route 53 sends people to a region that answers."""

import asyncio
import copy
import json
from collections.abc import AsyncIterator
from typing import Any

import httpx
import pytest
from pydantic import SecretStr

from deploy_support.builds import REGIONS, build
from deploy_support.edge import ALL_BUT_HOST, EDGE, Cdn, Request, resources_in, template
from hot_path_api.bootstrap import gateway
from hot_path_api.settings import Settings
from hot_path_api.testing import World, twins
from recommendation.common.v1 import common_pb2
from servicekit.clock import SystemClock
from servicekit.eventlog.memory import MemoryEventLog
from servicekit.identity import item_key
from servicekit.testing import eventually

KEY = {"X-API-Key": "key-of-a-test"}


@pytest.fixture
async def client() -> AsyncIterator[httpx.AsyncClient]:
    """Ask a gateway that wants a key, over the twins of its services."""
    world, log = World(), MemoryEventLog(clock=SystemClock())
    for name in ("1", "2"):
        item = common_pb2.Item(tenant="default", item_type="film", item_id=name, title=name, updated_at_ms=1)
        world.items[item_key("default", "film", name)] = item
    async with twins(world) as endpoints:
        settings = Settings(
            http_port=0,
            api_key=SecretStr(KEY["X-API-Key"]),
            agentdb_endpoint=endpoints.profile_store,
            vector_db_endpoint=endpoints.vector_search,
            graph_db_endpoint=endpoints.graph_service,
            gpu_worker_endpoint=endpoints.gpu_worker,
            time_budget_ms=500.0,
        )
        stop = asyncio.Event()
        async with gateway(settings, event_log=log) as running:
            task = asyncio.create_task(running.run(stop))
            await eventually(lambda: running.server.port)
            async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{running.server.port}") as asking:

                async def is_whole() -> bool:
                    answer = await asking.get("/api/recommendations", headers=KEY)
                    return answer.is_success and answer.json()["degraded"] == []

                await eventually(is_whole)
                yield asking
            stop.set()
            await task
    await log.close()


@pytest.fixture(scope="module")
def cdn() -> Cdn:
    return Cdn(template("cdn.yaml"))


async def judged(cdn: Cdn, client: httpx.AsyncClient, method: str, url: str, **sent: Any) -> tuple[int, Any]:
    """Ask the gateway and give for how long the CDN would keep its answer, and the answer."""
    headers = {**KEY, **sent.pop("headers", {})}
    answer = await client.request(method, url, headers=headers, **sent)
    asked = Request(method, answer.request.url.path, answer.request.url.query.decode(), headers)
    return cdn.judge(asked, status=answer.status_code, headers=answer.headers).kept_s, answer


@pytest.mark.parametrize("path", ["/api/recommendations", "/api/v1/recommendations/trending"])
async def test_public_lists_are_kept_for_five_minutes_as_the_gateway_says(
    cdn: Cdn, client: httpx.AsyncClient, path: str
) -> None:
    for query in ("", "?limit=1", "?item_type=film"):
        kept_s, answer = await judged(cdn, client, "GET", path + query)
        assert (kept_s, answer.status_code) == (300, 200)
        assert answer.headers["cache-control"] == "public, max-age=300"
        again, unchanged = await judged(
            cdn, client, "GET", path + query, headers={"If-None-Match": answer.headers["etag"]}
        )
        assert (again, unchanged.status_code) == (300, 304)  # after five minutes it asks whether it has changed


async def test_what_is_personal_passes_through(cdn: Cdn, client: httpx.AsyncClient) -> None:
    for method, url, body in (
        ("GET", "/api/recommendations?user_id=u1", None),
        ("GET", "/api/recommendations?user_id=nobody-yet", None),
        ("GET", "/api/v1/recommendations/user/u1", None),
        ("GET", "/api/v1/recommendations/item/1?item_type=film", None),
        ("GET", "/api/v1/search?q=film", None),
        ("GET", "/api/v1/users/u1/interactions", None),
        ("GET", "/health", None),
        ("GET", "/metrics", None),
        ("POST", "/api/recommendations", {"user_id": "u1"}),
        ("POST", "/api/recommendations", {}),
        ("POST", "/api/v1/recommendations/batch", {"requests": [{}]}),
        ("POST", "/api/v1/interactions", {}),
    ):
        kept_s, answer = await judged(cdn, client, method, url, json=body)
        assert kept_s == 0, (method, url, answer.headers)


async def test_personal_lists_would_not_even_be_kept_by_the_public_rule(cdn: Cdn, client: httpx.AsyncClient) -> None:
    assert cdn.policy(cdn.behaviour("/api/recommendations")) is not None
    kept_s, answer = await judged(cdn, client, "GET", "/api/recommendations?user_id=u1")
    assert (kept_s, answer.headers["cache-control"]) == (0, "private, no-store")


async def test_refusals_are_never_kept(cdn: Cdn, client: httpx.AsyncClient) -> None:
    for url, status in (("/api/recommendations?limit=0", 400), ("/api/recommendations?filter=x:", 400)):
        kept_s, answer = await judged(cdn, client, "GET", url)
        assert kept_s == 0
        assert answer.status_code in {status, 422}
    kept_s, answer = await judged(cdn, client, "GET", "/api/recommendations", headers={"X-API-Key": "another"})
    assert (kept_s, answer.status_code) == (0, 401)


async def test_a_list_is_kept_under_its_query_and_its_key_and_no_cookie(cdn: Cdn, client: httpx.AsyncClient) -> None:
    answer = await client.get("/api/recommendations", headers=KEY)

    def key(**changes: Any) -> tuple[str, ...]:
        asked = Request(**{"method": "GET", "path": "/api/recommendations", "query": "", "headers": KEY, **changes})
        return cdn.judge(asked, status=200, headers=answer.headers).key

    assert key() == key(headers={**KEY, "Cookie": "a=b"}) == key(headers={**KEY, "User-Agent": "x"})
    assert len({key(), key(query="limit=5"), key(headers={}), key(headers={"X-API-Key": "another"})}) == 4
    assert key(headers={"Authorization": "Bearer x"}) != key(headers={})


async def test_a_rule_that_forgets_the_key_is_found(client: httpx.AsyncClient) -> None:
    document = copy.deepcopy(template("cdn.yaml"))
    policy = document["Resources"]["PublicLists"]["Properties"]["CachePolicyConfig"]
    policy["ParametersInCacheKeyAndForwardedToOrigin"]["HeadersConfig"] = {"HeaderBehavior": "none"}
    with pytest.raises(ValueError, match="which it varies by"):
        await judged(Cdn(document), client, "GET", "/api/recommendations")


async def test_a_rule_that_keeps_by_its_own_will_is_found(client: httpx.AsyncClient) -> None:
    document = copy.deepcopy(template("cdn.yaml"))
    document["Resources"]["PublicLists"]["Properties"]["CachePolicyConfig"]["MinTTL"] = 60
    kept_s, _ = await judged(Cdn(document), client, "GET", "/api/recommendations?user_id=u1")
    assert kept_s == 60


def test_there_are_two_rules_and_everything_is_passed_on(cdn: Cdn) -> None:
    behaviours = [*cdn.distribution["CacheBehaviors"], cdn.distribution["DefaultCacheBehavior"]]
    assert [cdn.policy(each) is not None for each in behaviours] == [True, True, False]
    assert len({str(each["CachePolicyId"]) for each in behaviours}) == 2
    origins = {each["Id"] for each in cdn.distribution["Origins"]}
    for each in behaviours:
        assert each["OriginRequestPolicyId"] == ALL_BUT_HOST
        assert each["TargetOriginId"] in origins
        assert {"GET", "POST", "PUT", "DELETE"} <= set(each["AllowedMethods"])
        assert each["ViewerProtocolPolicy"] == "https-only"


def test_health_checks_ask_as_often_as_they_should() -> None:
    resources = template("route53.yaml")["Resources"]
    checks = {
        name: each["Properties"]["HealthCheckConfig"]
        for name, each in resources.items()
        if each["Type"] == "AWS::Route53::HealthCheck"
    }
    assert len(checks) == len(REGIONS)
    for each in checks.values():
        assert (each["ResourcePath"], each["RequestInterval"], each["FailureThreshold"]) == ("/health", 30, 3)
    assert {each["FullyQualifiedDomainName"]["Fn::Sub"] for each in checks.values()} == {
        f"{region}.${{DomainName}}" for region in REGIONS
    }
    assert "6 s where 10 s were asked for" in (EDGE / "route53.yaml").read_text()


def test_everybody_is_sent_to_a_region_that_is_looked_after() -> None:
    resources = template("route53.yaml")["Resources"]
    sent: dict[str, str] = {}
    for each in resources.values():
        properties = each["Properties"]
        if "GeoLocation" not in properties:
            continue
        (place,) = properties["GeoLocation"].values()
        region = next(region for region in REGIONS if properties["SetIdentifier"].startswith(region))
        check = resources[properties["HealthCheckId"]["Ref"]]["Properties"]["HealthCheckConfig"]
        assert check["FullyQualifiedDomainName"]["Fn::Sub"].startswith(region)
        assert properties["AliasTarget"]["DNSName"]["Ref"].lower().startswith(region.replace("-", ""))
        sent[place] = region
    primary, europe, asia = REGIONS
    assert sent == {"*": primary, "NA": primary, "SA": primary, "EU": europe, "AF": europe, "AS": asia, "OC": asia}


def test_every_name_in_a_template_is_declared() -> None:
    for path in EDGE.glob("*.yaml"):
        document = template(path.name)
        conditions = document.get("Conditions", {})
        declared = {*document["Parameters"], *document["Resources"], *conditions}
        named = {each for each in _references([document["Resources"], conditions]) if not each.startswith("AWS::")}
        assert named <= declared
        assert set(document["Parameters"]) <= named


def _references(value: Any) -> list[str]:
    if isinstance(value, list):
        return [name for each in value for name in _references(each)]
    if not isinstance(value, dict):
        return []
    found = [value[function] for function in ("Ref", "Condition") if isinstance(value.get(function), str)]
    found += [each.partition("}")[0] for each in value.get("Fn::Sub", "").split("${")[1:]]
    found += [value["Fn::GetAtt"].partition(".")[0]] if "Fn::GetAtt" in value else []
    found += [value["Fn::If"][0]] if "Fn::If" in value else []
    return found + _references(list(value.values()))


def test_a_fenced_region_names_the_primary_by_its_own_name() -> None:
    domain = template("route53.yaml")["Parameters"]["DomainName"]["Default"]
    (container,) = build("eu-west-1").get("Deployment", "hot-path-api")["spec"]["template"]["spec"]["containers"]
    (url,) = [each["value"] for each in container["env"] if each["name"] == "PRIMARY_URL"]
    assert url == f"https://{REGIONS[0]}.{domain}"


DOMAIN = template("route53.yaml")["Parameters"]["DomainName"]["Default"]
TOLD = {
    "HostedZoneId": "Z1",
    "CdnDomainName": "d1.cloudfront.net",
    "CertificateArn": "arn",
    **{f"{name}Balancer{end}": name for name in ("UsEast1", "EuWest1", "ApSoutheast1") for end in ("", "Zone")},
}


def doors(region: str) -> dict[str, dict[str, Any]]:
    """Give who listens from outside in a region: each host and port, with the Ingress."""
    found: dict[str, dict[str, Any]] = {}
    for each in build(region).all("Ingress"):
        for listener in json.loads(each["metadata"]["annotations"]["alb.ingress.kubernetes.io/listen-ports"]):
            for port in listener.values():
                found |= {f"{rule['host']}:{port}": each for rule in each["spec"]["rules"]}
    return found


def test_somebody_listens_wherever_the_edge_asks() -> None:
    records = resources_in(template("route53.yaml"), TOLD)
    (distribution,) = [
        each["Properties"]["DistributionConfig"]
        for each in resources_in(template("cdn.yaml"), TOLD).values()
        if each["Type"] == "AWS::CloudFront::Distribution"
    ]
    for each in distribution["Origins"]:
        assert each["CustomOriginConfig"]["OriginProtocolPolicy"] == "https-only"
        for region in REGIONS:  # whichever of them is nearest
            assert f"{each['DomainName']}:443" in doors(region)
    checks = [each["Properties"]["HealthCheckConfig"] for each in records.values() if "HealthCheck" in each["Type"]]
    assert len(checks) == len(REGIONS)
    for check in checks:
        region = check["FullyQualifiedDomainName"].partition(".")[0]
        assert check["Type"] == "HTTPS"
        door = doors(region)[f"{check['FullyQualifiedDomainName']}:{check['Port']}"]
        assert door["metadata"]["annotations"]["alb.ingress.kubernetes.io/healthcheck-path"] == check["ResourcePath"]
        for rule in door["spec"]["rules"]:
            assert check["ResourcePath"] in {path["path"] for path in rule["http"]["paths"]}
    assert f"{REGIONS[0]}.{DOMAIN}:443" in doors(REGIONS[0])  # PRIMARY_URL


@pytest.mark.parametrize("region", REGIONS)
def test_the_balancer_has_a_name_and_a_certificate_of_its_region(region: str) -> None:
    (ingress,) = build(region).all("Ingress")
    annotations = ingress["metadata"]["annotations"]
    name = annotations["alb.ingress.kubernetes.io/load-balancer-name"]
    assert len(name) <= 32  # otherwise there would be none
    said = [each.get("Description", "") for each in template("route53.yaml")["Parameters"].values()]
    assert any(f"the balancer {name}" in each for each in said)
    assert annotations["alb.ingress.kubernetes.io/certificate-arn"].startswith(f"arn:aws:acm:{region}:")
    # The records are made with health checks, by nobody else.
    assert annotations["external-dns.alpha.kubernetes.io/controller"] != "dns-controller"
    assert ingress["spec"]["ingressClassName"] == "alb"


def test_every_name_of_the_edge_has_a_record_and_the_domain_is_the_cdn() -> None:
    records = [
        each["Properties"]
        for each in resources_in(template("route53.yaml"), TOLD).values()
        if each["Type"] == "AWS::Route53::RecordSet"
    ]
    assert {each["Name"] for each in records} == {
        DOMAIN,
        f"origin.{DOMAIN}",
        *(f"{region}.{DOMAIN}" for region in REGIONS),
    }
    public = {each["Type"]: each["AliasTarget"] for each in records if each["Name"] == DOMAIN}
    alias = {"DNSName": "d1.cloudfront.net", "HostedZoneId": "Z2FDTNDATAQYW2", "EvaluateTargetHealth": False}
    assert public == {"A": alias, "AAAA": alias}
    (distribution,) = [
        each["Properties"]["DistributionConfig"]
        for each in resources_in(template("cdn.yaml"), TOLD).values()
        if "Distribution" in each["Type"]
    ]
    assert distribution["Aliases"] == [DOMAIN]
    assert distribution["IPV6Enabled"] is True


def buckets(region: str, primary: str) -> tuple[str, list[str], dict[str, Any]]:
    """Give the bucket of a region's stack, where it is copied to, and the stack."""
    stack = resources_in(template("models-bucket.yaml"), {"AWS::Region": region, "PrimaryRegion": primary})
    properties = stack["Models"]["Properties"]
    rules = properties.get("ReplicationConfiguration", {"Rules": []})["Rules"]
    return properties["BucketName"], [each["Destination"]["Bucket"] for each in rules], stack


@pytest.mark.parametrize("primary", REGIONS)
def test_models_go_from_the_primary_to_every_other_region(primary: str) -> None:
    names = {region: buckets(region, primary)[0] for region in REGIONS}
    for region in REGIONS:
        url = build(region).get("ConfigMap", "service-endpoints")["data"]["model_store_url"]
        assert url.startswith(f"s3://{names[region]}/")
        _, copied_to, stack = buckets(region, primary)
        assert stack["Models"]["Properties"]["VersioningConfiguration"] == {"Status": "Enabled"}
        others = [f"arn:aws:s3:::{names[other]}" for other in REGIONS if other != primary]
        assert copied_to == (others if region == primary else [])
        assert ("Copying" in stack) == (region == primary)
    assert template("models-bucket.yaml")["Parameters"]["PrimaryRegion"]["Default"] == REGIONS[0]
    assert template("models-bucket.yaml")["Parameters"]["PrimaryRegion"]["AllowedValues"] == list(REGIONS)


def test_every_copy_is_allowed_by_its_role() -> None:
    _, copied_to, stack = buckets(REGIONS[0], REGIONS[0])
    (policy,) = stack["Copying"]["Properties"]["Policies"]
    allowed = {
        action: statement["Resource"]
        for statement in policy["PolicyDocument"]["Statement"]
        for action in statement["Action"]
    }
    here = "arn:aws:s3:::recommendation-models-us-east-1"
    assert (allowed["s3:ListBucket"], allowed["s3:GetObjectVersionForReplication"]) == (here, f"{here}/*")
    pattern = allowed["s3:ReplicateObject"].removesuffix("*/*")
    assert all(each.startswith(pattern) for each in copied_to)
    configuration = stack["Models"]["Properties"]["ReplicationConfiguration"]
    assert configuration["Role"] == "Copying.Arn"
    assert len({each["Priority"] for each in configuration["Rules"]}) == len(copied_to)


# --- what a change of one value would break


def kept_too_long(document: dict[str, Any]) -> list[str]:
    """Tell of rules that keep longer than the headers of the gateway's public lists say."""
    found = []
    for name, each in document["Resources"].items():
        if each["Type"] == "AWS::CloudFront::CachePolicy":
            config = each["Properties"]["CachePolicyConfig"]
            if (config["MinTTL"], config["DefaultTTL"], config["MaxTTL"]) != (0, 0, 300):
                found.append(name)
    return found


def strayed(document: dict[str, Any]) -> list[str]:
    """Tell of records that lead to the balancer, or the zone, of another region than their own."""
    found = []
    for name, each in document["Resources"].items():
        properties = each["Properties"]
        said = properties.get("SetIdentifier") or str(properties.get("Name", {}).get("Fn::Sub", ""))
        region = next((region for region in REGIONS if said.startswith(region)), None)
        if each["Type"] == "AWS::Route53::RecordSet" and region:
            balancer = f"{region.title().replace('-', '')}Balancer"
            alias = {
                "DNSName": {"Ref": balancer},
                "HostedZoneId": {"Ref": f"{balancer}Zone"},
                "EvaluateTargetHealth": True,
            }
            if properties["AliasTarget"] != alias:
                found.append(name)
    return found


def open_buckets(document: dict[str, Any]) -> list[str]:
    """Tell of buckets that somebody could make public."""
    blocks = {f"{verb}Public{what}" for verb, what in (("Block", "Acls"), ("Block", "Policy"), ("Ignore", "Acls"))}
    blocks.add("RestrictPublicBuckets")
    return [
        name
        for name, each in document["Resources"].items()
        if each["Type"] == "AWS::S3::Bucket"
        and each["Properties"]["PublicAccessBlockConfiguration"] != dict.fromkeys(blocks, True)
    ]


def test_nothing_is_kept_too_long_leads_astray_or_is_public() -> None:
    assert kept_too_long(template("cdn.yaml")) == []
    assert strayed(template("route53.yaml")) == []
    assert open_buckets(template("models-bucket.yaml")) == []


def test_a_change_of_one_value_is_found() -> None:
    cdn = copy.deepcopy(template("cdn.yaml"))
    cdn["Resources"]["PublicLists"]["Properties"]["CachePolicyConfig"]["MaxTTL"] = 3600
    assert kept_too_long(cdn) == ["PublicLists"]
    names = copy.deepcopy(template("route53.yaml"))
    names["Resources"]["EuWest1Name"]["Properties"]["AliasTarget"]["DNSName"] = {"Ref": "UsEast1Balancer"}
    names["Resources"]["UsEast1Default"]["Properties"]["AliasTarget"]["HostedZoneId"] = {"Ref": "EuWest1BalancerZone"}
    assert strayed(names) == ["UsEast1Default", "EuWest1Name"]
    bucket = copy.deepcopy(template("models-bucket.yaml"))
    bucket["Resources"]["Models"]["Properties"]["PublicAccessBlockConfiguration"]["BlockPublicPolicy"] = False
    assert open_buckets(bucket) == ["Models"]
