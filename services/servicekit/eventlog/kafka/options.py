"""How to reach a Kafka cluster and how to keep topics there."""

import ssl
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final
from urllib.parse import urlsplit

from servicekit.errors import StartupError

SCHEME: Final = "kafka"
SECURITY_PROTOCOLS: Final = ("PLAINTEXT", "SSL", "SASL_PLAINTEXT", "SASL_SSL")
SASL_MECHANISMS: Final = ("PLAIN", "SCRAM-SHA-256", "SCRAM-SHA-512")


class _TlsSocket(ssl.SSLSocket):
    """Closes when the other side is not trusted or does not trust us; the driver would leave it lying about."""

    def do_handshake(self, block: bool = False) -> None:
        try:
            super().do_handshake(block)
        except (ssl.SSLWantReadError, ssl.SSLWantWriteError):
            raise
        except BaseException:
            self.close()
            raise


@dataclass(frozen=True, slots=True)
class KafkaOptions:
    """What an address does not say; the settings of the same names in capitals, with KAFKA_ before, give it.

    Args:
        security_protocol: One of SECURITY_PROTOCOLS.
        sasl_mechanism: One of SASL_MECHANISMS; with a SASL protocol only.
        username: For SASL.
        password: For SASL.
        ssl_cafile: PEM file of the authorities that may have signed the brokers' certificates; empty: the system's.
        ssl_certfile: PEM file of the client's certificate; empty: none is shown.
        ssl_keyfile: PEM file of the client's key; empty: it stands in the certificate's file.
        ssl_password: Opens the key.
        ssl_check_hostname: Whether a broker's certificate must name its host.
        replication_factor: Copies of each new topic; None: the cluster's own default.
        min_insync_replicas: How many of them must have a record before it is acknowledged; None: the cluster's default.
        client_rack: Where this process runs, so that it may read from the closest copy; empty: always from the leader.
        wait_s: How long to wait for a cluster that does not answer at the start.
    """

    security_protocol: str = "PLAINTEXT"
    sasl_mechanism: str = ""
    username: str = ""
    password: str = field(default="", repr=False)
    ssl_cafile: str = ""
    ssl_certfile: str = ""
    ssl_keyfile: str = ""
    ssl_password: str = field(default="", repr=False)
    ssl_check_hostname: bool = True
    replication_factor: int | None = None
    min_insync_replicas: int | None = None
    client_rack: str = ""
    wait_s: float = 30.0

    def check(self) -> None:
        """See that the options go together.

        Raises:
            StartupError: They do not.
        """
        sasl = self.security_protocol.startswith("SASL_")
        if self.security_protocol not in SECURITY_PROTOCOLS:
            raise StartupError(f"KAFKA_SECURITY_PROTOCOL is none of {', '.join(SECURITY_PROTOCOLS)}")
        if sasl and self.sasl_mechanism not in SASL_MECHANISMS:
            raise StartupError(
                f"KAFKA_SECURITY_PROTOCOL is {self.security_protocol}, and KAFKA_SASL_MECHANISM is none of"
                f" {', '.join(SASL_MECHANISMS)}"
            )
        if sasl and not (self.username and self.password):
            raise StartupError(
                f"KAFKA_SECURITY_PROTOCOL is {self.security_protocol}; set KAFKA_USERNAME and KAFKA_PASSWORD"
            )
        if not sasl and (self.username or self.password or self.sasl_mechanism):
            raise StartupError(
                "KAFKA_USERNAME, KAFKA_PASSWORD or KAFKA_SASL_MECHANISM is set, and would not be used: set"
                " KAFKA_SECURITY_PROTOCOL to SASL_SSL or SASL_PLAINTEXT"
            )
        try:
            self.client()
        except OSError as error:  # of which ssl.SSLError is one
            raise StartupError(
                f"KAFKA_SSL_CAFILE, KAFKA_SSL_CERTFILE, KAFKA_SSL_KEYFILE or KAFKA_SSL_PASSWORD cannot be used: {error}"
            ) from error
        copies, needed = self.replication_factor, self.min_insync_replicas
        if copies is not None and needed is not None and needed > copies:
            raise StartupError(
                f"KAFKA_MIN_INSYNC_REPLICAS is {needed}, more than KAFKA_REPLICATION_FACTOR, {copies}: nothing could be"
                " written"
            )

    def client(self) -> Mapping[str, Any]:
        """Give what all of the driver's clients are told."""
        told: dict[str, Any] = {"security_protocol": self.security_protocol}
        if self.security_protocol.startswith("SASL_"):
            told |= {
                "sasl_mechanism": self.sasl_mechanism,
                "sasl_plain_username": self.username,
                "sasl_plain_password": self.password,
            }
        if self.security_protocol.endswith("SSL"):
            told["ssl_context"] = self._tls()
        return told

    def _tls(self) -> ssl.SSLContext:
        """Give what the driver would make of the files by itself, with sockets that close when they are refused."""
        context = ssl.create_default_context(cafile=self.ssl_cafile or None)
        context.sslsocket_class = _TlsSocket
        context.check_hostname = self.ssl_check_hostname
        if self.ssl_certfile:
            context.load_cert_chain(self.ssl_certfile, self.ssl_keyfile or None, self.ssl_password or None)
        return context


def parse_servers(url: str) -> tuple[str, ...]:
    """Give the `host:port`s of `kafka://host:port[,host:port…]`; none when the URL is not of that form."""
    parts = urlsplit(url)
    servers = tuple(parts.netloc.split(","))
    if parts.scheme != SCHEME or parts.path.strip("/") or parts.query or "@" in parts.netloc:
        return ()
    return servers if all(_is_server(server) for server in servers) else ()


def _is_server(text: str) -> bool:
    host, _, port = text.rpartition(":")
    return bool(host) and port.isdecimal() and 0 < int(port) < 1 << 16
