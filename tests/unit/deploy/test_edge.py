"""The CDN keeps what the gateway calls public and nothing else; Route 53 sends people to a region that answers."""

import asyncio
import copy
from collections.abc import AsyncIterator
from typing import Any

import httpx
import pytest
from pydantic import SecretStr

from deploy_support.builds import REGIONS, build
from deploy_support.edge import ALL_BUT_HOST, EDGE, Cdn, Request, template
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
    for name in ("route53.yaml", "cdn.yaml"):
        document = template(name)
        declared = {*document["Parameters"], *document["Resources"]}
        assert set(_references(document["Resources"])) <= declared
        assert set(document["Parameters"]) <= set(_references(document["Resources"]))


def _references(value: Any) -> list[str]:
    if isinstance(value, dict):
        if set(value) == {"Ref"}:
            return [value["Ref"]]
        if set(value) == {"Fn::Sub"}:
            return [value["Fn::Sub"].partition("${")[2].partition("}")[0]]
        return [name for each in value.values() for name in _references(each)]
    if isinstance(value, list):
        return [name for each in value for name in _references(each)]
    return []


def test_a_fenced_region_names_the_primary_by_its_own_name() -> None:
    domain = template("route53.yaml")["Parameters"]["DomainName"]["Default"]
    (container,) = build("eu-west-1").get("Deployment", "hot-path-api")["spec"]["template"]["spec"]["containers"]
    (url,) = [each["value"] for each in container["env"] if each["name"] == "PRIMARY_URL"]
    assert url == f"https://{REGIONS[0]}.{domain}"
