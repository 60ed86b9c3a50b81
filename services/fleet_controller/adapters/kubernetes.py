"""The ReplicaSet of a StatefulSet, over the API of Kubernetes."""

from pathlib import Path

import httpx

from fleet_controller.adapters.http import ask
from fleet_controller.domain.replicas import ReplicaState
from servicekit.clock import Clock
from servicekit.errors import StartupError

CHANGED_AT = "recommendation/replicas-changed-at-ms"
"""The annotation that remembers when the number was changed last."""


class StatefulSetReplicas:
    """The replicas of one StatefulSet.

    Args:
        client: The API server; it carries the account's token.
        namespace: Where the StatefulSet is.
        name: Which it is.
        clock: Says when a change was made.
    """

    def __init__(self, client: httpx.AsyncClient, *, namespace: str, name: str, clock: Clock) -> None:
        self._client = client
        self._path = f"/apis/apps/v1/namespaces/{namespace}/statefulsets/{name}"
        self._clock = clock

    async def state(self) -> ReplicaState:
        """Read it."""
        found = await ask(self._client, "GET", self._path)
        changed_at = found["metadata"].get("annotations", {}).get(CHANGED_AT)
        return ReplicaState(
            replicas=found["spec"].get("replicas", 1),
            ready=found.get("status", {}).get("readyReplicas", 0),
            latency_ms=None,
            since_change_s=None if changed_at is None else (self._clock.now_ms() - int(changed_at)) / 1000,
        )

    async def scale(self, replicas: int) -> None:
        """Write number and moment in one step."""
        body = {
            "metadata": {"annotations": {CHANGED_AT: str(self._clock.now_ms())}},
            "spec": {"replicas": replicas},
        }
        await ask(
            self._client, "PATCH", self._path, body=body, headers={"Content-Type": "application/merge-patch+json"}
        )


def account_of(folder: Path) -> tuple[str, str, Path]:
    """Give the token, the namespace and the authority's certificate of the pod's account.

    Raises:
        StartupError: It runs in no pod, or the pod has no account.
    """
    try:
        return (folder / "token").read_text().strip(), (folder / "namespace").read_text().strip(), folder / "ca.crt"
    except OSError as error:
        raise StartupError(
            f"{error.filename} cannot be read; the fleet controller runs in a pod with a service account"
        ) from error
