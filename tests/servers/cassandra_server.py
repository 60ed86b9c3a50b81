"""Apache Cassandra as one node: the CQL server of the tests."""

from pathlib import Path

from servers.java_server import JavaServer
from servers.server import HOST
from servers.settings import ServersSettings

USER = "cassandra"
LOGBACK = """\
<configuration>
  <appender name="console" class="ch.qos.logback.core.ConsoleAppender">
    <encoder><pattern>%-5level %d{HH:mm:ss.SSS} %logger{20} - %msg%n</pattern></encoder>
  </appender>
  <root level="INFO"><appender-ref ref="console"/></root>
</configuration>
"""
EXPORTS = (  # what Cassandra reaches for inside Java 17, as its own start script opens it
    "java.base/jdk.internal.misc",
    "java.base/java.lang.ref",
    "java.base/sun.nio.ch",
    "java.management.rmi/com.sun.jmx.remote.internal.rmi",
    "java.rmi/sun.rmi.registry",
    "java.rmi/sun.rmi.server",
    "java.sql/java.sql",
    "jdk.unsupported/sun.misc",
)
OPENS = (
    "java.base/java.lang.module",
    "java.base/jdk.internal.loader",
    "java.base/jdk.internal.ref",
    "java.base/jdk.internal.reflect",
    "java.base/jdk.internal.math",
    "java.base/jdk.internal.module",
    "java.base/jdk.internal.util.jar",
    "java.base/sun.nio.ch",
    "java.base/java.io",
    "java.base/java.nio",
    "java.base/java.util",
    "java.base/java.util.concurrent",
    "java.base/java.util.concurrent.atomic",
    "java.base/java.lang",
    "java.base/java.lang.reflect",
    "jdk.management/com.sun.management.internal",
)


class CassandraServer(JavaServer):
    """A node of its own cluster, which acknowledges a write when its commit log is synced.

    Args:
        storage_port: Port between nodes.
        guarded: Whether clients must log in; then there is one user, cassandra, with the password cassandra.
    """

    name = "cassandra"

    def __init__(
        self, folder: Path, port: int, storage_port: int, settings: ServersSettings, *, guarded: bool = False
    ) -> None:
        super().__init__(folder, port, settings)
        self.storage_port = storage_port
        self.guarded = guarded

    @property
    def heap_mb(self) -> int:
        return self.settings.cassandra_heap_mb

    def prepare(self) -> None:
        conf = self.folder / "conf"
        conf.mkdir(exist_ok=True)
        (conf / "logback.xml").write_text(LOGBACK)
        (conf / "cassandra.yaml").write_text(self._configuration())

    def command(self) -> list[str]:
        conf = self.folder / "conf"
        (agent,) = self.jars.glob("jamm-*.jar")
        properties = {
            "cassandra.config": f"file://{conf}/cassandra.yaml",
            "cassandra.storagedir": str(self.folder),
            "cassandra-foreground": "yes",
            "logback.configurationFile": str(conf / "logback.xml"),
            "jna.tmpdir": str(self._scratch),
            "jdk.attach.allowAttachSelf": "true",
            "java.net.preferIPv4Stack": "true",
            "io.netty.tryReflectionSetAccessible": "true",
            # There is nobody else in the ring to wait for.
            "cassandra.skip_wait_for_gossip_to_settle": "0",
            "cassandra.ring_delay_ms": "0",
            "cassandra.superuser_setup_delay_ms": "0",
        }
        options = [
            "-XX:MaxDirectMemorySize=256m",
            "-XX:+PerfDisableSharedMem",
            f"-javaagent:{agent}",
            *(f"-D{name}={value}" for name, value in properties.items()),
            *(f"--add-exports={package}=ALL-UNNAMED" for package in EXPORTS),
            *(f"--add-opens={package}=ALL-UNNAMED" for package in OPENS),
        ]
        return self.java("org.apache.cassandra.service.CassandraDaemon", options=options, classes=str(conf))

    def probe(self) -> None:
        from cassandra.auth import PlainTextAuthProvider  # noqa: PLC0415 - see Server.probe
        from cassandra.cluster import Cluster  # noqa: PLC0415

        login = PlainTextAuthProvider(USER, USER) if self.guarded else None
        with Cluster([HOST], port=self.port, auth_provider=login, protocol_version=5, connect_timeout=5) as cluster:
            cluster.connect().execute("SELECT release_version FROM system.local", timeout=5)

    def _configuration(self) -> str:
        return f"""\
cluster_name: tests
authenticator: {"PasswordAuthenticator" if self.guarded else "AllowAllAuthenticator"}
num_tokens: 1
initial_token: "0"
partitioner: org.apache.cassandra.dht.Murmur3Partitioner
endpoint_snitch: SimpleSnitch
seed_provider:
  - class_name: org.apache.cassandra.locator.SimpleSeedProvider
    parameters: [{{seeds: "{HOST}:{self.storage_port}"}}]
listen_address: {HOST}
rpc_address: {HOST}
start_native_transport: true
native_transport_port: {self.port}
storage_port: {self.storage_port}
ssl_storage_port: {self.storage_port + 1}
data_file_directories: ["{self.folder}/data"]
commitlog_directory: "{self.folder}/commitlog"
saved_caches_directory: "{self.folder}/saved_caches"
hints_directory: "{self.folder}/hints"
cdc_raw_directory: "{self.folder}/cdc_raw"
# A write is acknowledged when it is synced.
commitlog_sync: batch
commitlog_segment_size: 8MiB
commitlog_total_space: 256MiB
commitlog_disk_access_mode: legacy
disk_failure_policy: stop
auto_snapshot: false
# Small.
concurrent_reads: 8
# A writer waits until its write is synced, and those that wait share a sync.
concurrent_writes: 128
concurrent_counter_writes: 4
concurrent_compactors: 1
memtable_heap_space: 64MiB
memtable_offheap_space: 64MiB
file_cache_size: 32MiB
networking_cache_size: 16MiB
key_cache_size: 8MiB
counter_cache_size: 4MiB
"""
