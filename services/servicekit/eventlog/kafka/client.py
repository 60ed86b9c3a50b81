"""What all of the driver's clients are made with, so that one that fails to connect leaves nothing behind.

The driver leaves a client that could not be constructed running, and a socket that was refused to the garbage
collector, which runs seldom here. During an outage both would pile up.
"""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from socket import socket
from typing import Any

from kafka.net.compat import KafkaNetClient
from kafka.net.inet import KafkaNetSocket

from servicekit.eventlog.kafka.options import KafkaOptions


class _DirectSocket(KafkaNetSocket):  # type: ignore[misc] # the driver ships no types
    """Connects as the driver does without a proxy, and closes what it could not connect."""

    SCHEMES = ("direct",)

    async def sock_connect(self, net: Any, sock: socket, sockaddr: Any, timeout_at: float | None = None) -> socket:
        try:
            await super().sock_connect(net, sock, sockaddr, timeout_at=timeout_at)
        except BaseException:
            sock.close()
            raise
        return sock


@contextmanager
def connecting(options: KafkaOptions) -> Iterator[Mapping[str, Any]]:
    """Give the settings to construct a client with; when that fails, what it began to use is closed."""
    made: list[KafkaNetClient] = []

    def make(**settings: Any) -> KafkaNetClient:
        made.append(KafkaNetClient(**settings))
        return made[-1]

    try:
        yield {"kafka_client": make, "proxy_url": "direct://brokers", **options.client()}
    except BaseException:
        for client in made:
            client.close()
        raise
