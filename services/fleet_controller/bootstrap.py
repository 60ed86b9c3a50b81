"""Wires one run of a controller."""

import ssl
import sys

import httpx
import neo4j

from fleet_controller.adapters.kubernetes import StatefulSetReplicas, account_of
from fleet_controller.adapters.neo4j_cluster import Neo4jCluster
from fleet_controller.adapters.prometheus import PrometheusMeasurements
from fleet_controller.adapters.qdrant_cluster import QdrantCluster
from fleet_controller.application.control import control_replicas, control_shards
from fleet_controller.domain.replicas import ReplicaRule
from fleet_controller.settings import FleetSettings
from servicekit.clock import SystemClock


def _tell(line: str) -> None:
    sys.stdout.write(f"{line}\n")


async def run_neo4j(settings: FleetSettings) -> None:
    """Look after the read replicas once."""
    token, namespace, authority = account_of(settings.kubernetes_account_dir)
    login = (settings.neo4j_username, settings.neo4j_password.get_secret_value())
    async with (
        httpx.AsyncClient(base_url=settings.prometheus_url, timeout=settings.timeout_s) as prometheus,
        httpx.AsyncClient(
            base_url=settings.kubernetes_url,
            timeout=settings.timeout_s,
            headers={"Authorization": f"Bearer {token}"},
            verify=ssl.create_default_context(cafile=str(authority)),
        ) as kubernetes,
        neo4j.AsyncGraphDatabase.driver(
            settings.graph_store_url, auth=login, connection_timeout=settings.timeout_s, telemetry_disabled=True
        ) as driver,
    ):
        await control_replicas(
            measurements=PrometheusMeasurements(prometheus),
            replica_set=StatefulSetReplicas(
                kubernetes, namespace=namespace, name=settings.replica_set, clock=SystemClock()
            ),
            graph=Neo4jCluster(driver, database=settings.neo4j_database, replica_set=settings.replica_set),
            query=settings.latency_query,
            rule=ReplicaRule(
                target_ms=settings.target_ms,
                up_above_ms=settings.up_above_ms,
                down_below_ms=settings.down_below_ms,
                cooldown_s=settings.cooldown_s,
                least=settings.least_replicas,
                most=settings.most_replicas,
                most_steps_up=settings.most_steps_up,
            ),
            dry_run=settings.dry_run,
            tell=_tell,
        )


async def run_qdrant(settings: FleetSettings) -> None:
    """Look after the shards once."""
    key = settings.qdrant_api_key.get_secret_value()
    async with httpx.AsyncClient(
        base_url=settings.qdrant_rest_url, timeout=settings.timeout_s, headers={"api-key": key} if key else None
    ) as client:
        await control_shards(
            cluster=QdrantCluster(client),
            threshold=settings.imbalance,
            most=settings.most_moves,
            dry_run=settings.dry_run,
            tell=_tell,
        )
