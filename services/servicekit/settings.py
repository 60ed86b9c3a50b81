"""Settings from environment variables: typed, frozen, and told in one line each when they are wrong."""

import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal, Self, TypeVar

from pydantic import Field, SecretStr, ValidationError, model_validator
from pydantic_settings import BaseSettings, SettingsConfigDict

from servicekit.rpc.tls import TlsFiles

BAD_SETTINGS_EXIT_CODE = 2
EXAMPLE_PREFIX = "example-"
"""With this every secret begins that stands in a file of the repository."""
_WELL_KNOWN = frozenset(
    {"admin", "cassandra", "changeme", "change-me", "neo4j", "password", "scylla", "secret", "test"}
)


def _embedded_log(validated: dict[str, Any]) -> str:
    return f"sqlite:///{validated['data_dir'].absolute() / 'log'}"


class ServiceSettings(BaseSettings):
    """What every service can be told; each service adds its own fields in a subclass.

    A field's environment variable is its name in capitals. An empty variable counts as absent, so that a deployment
    may pass on what it does not set.
    """

    secrets_of: ClassVar[Mapping[str, str]] = {}
    """For each secret that production needs the setting of the address that it is for."""

    model_config = SettingsConfigDict(
        frozen=True, extra="ignore", env_ignore_empty=True, use_attribute_docstrings=True, populate_by_name=True
    )

    environment: Literal["development", "production"] = "development"
    """In production no secret may be missing where one is needed, nor be one that stands in an example."""
    region: str = ""
    """Where this runs, in metrics and in refusals."""
    compute_cost_usd_per_hour: float = Field(default=0.0, ge=0.0, allow_inf_nan=False)
    """What the machine of this process costs an hour, or its share of one; shown in the metrics. 0: not told."""
    storage_costs_usd_per_month: dict[str, Annotated[float, Field(ge=0.0, allow_inf_nan=False)]] = Field(
        default_factory=dict
    )
    """What the region's storage costs a month, as JSON: `{"ssd": 120, "bucket": 23}`; tell it to one service."""
    host: str = "127.0.0.1"
    """Address that the service listens on."""
    grpc_port: int = Field(default=0, ge=0, le=65535)
    """Port of the gRPC server; 0 takes a free one."""
    metrics_port: int = Field(default=9090, ge=0, le=65535)
    """Port of the Prometheus metrics; 0 serves none."""
    log_level: Literal["DEBUG", "INFO", "WARNING", "ERROR"] = "INFO"
    """Lowest level that is logged."""
    log_format: Literal["console", "json"] = "json"
    """Lines for machines or for a terminal."""
    data_dir: Path = Path(".data")
    """Folder below which the embedded stores keep their files."""
    event_log_url: str = Field(default_factory=_embedded_log)
    """Where the event log is: `sqlite:///FOLDER` or `kafka://host:port[,host:port…]`; without it the folder `log` in
    the data folder."""
    event_log_prefix: str = Field(default="", pattern=r"^[A-Za-z0-9._-]{0,100}$")
    """Begins the names of all topics and groups in the log, so that several deployments can share a cluster."""
    event_log_partitions: int = Field(default=4, ge=1)
    """Partitions of each topic; as many members of a group may share the work. Fixed when the topics are made."""
    event_log_retention_days: float = Field(default=30.0, gt=0.0)
    """Days that interactions and served lists are kept for a replay; everything else of use is kept for ever."""
    event_log_dlq_retention_days: float = Field(default=90.0, gt=0.0)
    """Days that records that could not be applied are kept."""
    kafka_security_protocol: Literal["PLAINTEXT", "SSL", "SASL_PLAINTEXT", "SASL_SSL"] = "PLAINTEXT"
    """How to talk with the brokers."""
    kafka_sasl_mechanism: Literal["", "PLAIN", "SCRAM-SHA-256", "SCRAM-SHA-512"] = ""
    """How to show the password, with a SASL protocol."""
    kafka_username: str = ""
    """User, with a SASL protocol."""
    kafka_password: SecretStr = SecretStr("")
    """Password, with a SASL protocol."""
    kafka_ssl_cafile: str = ""
    """PEM file of the authorities that may have signed the brokers' certificates; empty takes the system's."""
    kafka_ssl_certfile: str = ""
    """PEM file of the certificate to show; empty shows none."""
    kafka_ssl_keyfile: str = ""
    """PEM file of its key; empty when the certificate's file has it."""
    kafka_ssl_password: SecretStr = SecretStr("")
    """Opens the key."""
    kafka_ssl_check_hostname: bool = True
    """Whether a broker's certificate must name its host."""
    kafka_replication_factor: int | None = Field(default=None, ge=1)
    """Copies of each topic that is made; empty takes the cluster's own default."""
    kafka_min_insync_replicas: int | None = Field(default=None, ge=1)
    """How many of them must have a record before it counts; empty takes the cluster's own default."""
    kafka_client_rack: str = ""
    """Rack or zone of this process, to read from a copy in the same; empty reads from the leader."""
    store_wait_s: float = Field(default=30.0, ge=0.0)
    """Seconds that a start waits for a store that cannot be reached, before it gives up."""
    shutdown_grace_s: float = Field(default=10.0, ge=0.0)
    """Seconds that calls in flight may take to finish when the service stops."""
    tls_cert_file: Path | None = None
    """PEM file of the certificate that this service shows other services; with the next two it switches TLS on."""
    tls_key_file: Path | None = None
    """PEM file of its private key."""
    tls_ca_file: Path | None = None
    """PEM file of the authority that signs the certificates of all services."""

    @property
    def tls(self) -> TlsFiles | None:
        """Give the files of TLS between services; None without it."""
        if self.tls_cert_file is None or self.tls_key_file is None or self.tls_ca_file is None:
            return None
        return TlsFiles(self.tls_cert_file, self.tls_key_file, self.tls_ca_file)

    @model_validator(mode="after")
    def _keeps_its_secrets(self) -> Self:
        if self.environment != "production":
            return self
        for name in type(self).model_fields:
            value = getattr(self, name)
            if isinstance(value, SecretStr) and is_example(value.get_secret_value()):
                raise ValueError(
                    f"{name.upper()} is the value of an example; ENVIRONMENT=production wants one of its own"
                )
        for secret, address in self.secrets_of.items():
            if getattr(self, address) and not getattr(self, secret).get_secret_value():
                raise ValueError(f"{secret.upper()} is empty; ENVIRONMENT=production wants one for {address.upper()}")
        return self

    @model_validator(mode="after")
    def _has_all_tls_files(self) -> Self:
        files = {
            "TLS_CERT_FILE": self.tls_cert_file,
            "TLS_KEY_FILE": self.tls_key_file,
            "TLS_CA_FILE": self.tls_ca_file,
        }
        missing = [name for name, path in files.items() if path is None]
        if missing and len(missing) < len(files):
            raise ValueError(f"TLS needs {', '.join(missing)} as well")
        return self


def is_example(secret: str) -> bool:
    """Tell whether a secret is none, because everybody has read it."""
    return secret.lower().startswith(EXAMPLE_PREFIX) or secret.lower() in _WELL_KNOWN


S = TypeVar("S", bound=BaseSettings)


def load_settings(kind: type[S]) -> S:
    """Read the settings, or end the process with code 2 and one line per bad value on standard error."""
    try:
        return kind()
    except ValidationError as error:
        for problem in error.errors(include_url=False):
            name = "_".join(str(part) for part in problem["loc"]).upper()
            if problem["type"] == "default_factory_not_called":
                continue  # a default that is made of another value, which has a line of its own
            if problem["type"] == "missing":
                sys.stderr.write(f"{name} is not set, and there is no default\n")
            elif not name:  # what is wrong with several together says itself which; the input would hold all secrets
                sys.stderr.write(f"{problem['msg'].removeprefix('Value error, ')}\n")
            else:
                sys.stderr.write(f"{name} is {problem['input']!r}: {problem['msg']}\n")
        raise SystemExit(BAD_SETTINGS_EXIT_CODE) from error
