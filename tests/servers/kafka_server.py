"""Apache Kafka as one node that is broker and controller (KRaft)."""

from pathlib import Path

from servers.java_server import JavaServer
from servers.server import HOST
from servers.settings import ServersSettings

USER = "tests"
CLUSTER_ID = (
    "MkU3OEVBNTcwNTJENDM2Qg"  # fixed: a random one may begin with "-", which the format tool takes for an option
)
LOG4J = """\
status=error
appender.console.type=Console
appender.console.name=console
appender.console.layout.type=PatternLayout
appender.console.layout.pattern=%d %p %c{1} %m%n
rootLogger.level=warn
rootLogger.appenderRef.console.ref=console
"""


class KafkaServer(JavaServer):
    """A broker; topics are made by those who use them.

    Args:
        controller_port: Port of the controller; kept in the data, so it must stay the same.
        password: What clients must show with the user's name, by SASL PLAIN; empty lets everybody in.
    """

    name = "kafka"

    def __init__(
        self, folder: Path, port: int, controller_port: int, settings: ServersSettings, password: str = ""
    ) -> None:
        super().__init__(folder, port, settings)
        self.controller_port = controller_port
        self.password = password

    @property
    def heap_mb(self) -> int:
        return self.settings.kafka_heap_mb

    def prepare(self) -> None:
        (self.folder / "log4j2.properties").write_text(LOG4J)
        self._properties.write_text(self._configuration())
        if not (self.folder / "data" / "meta.properties").exists():
            self.run_tool(
                "kafka.tools.StorageTool",
                *("format", "--standalone", "--ignore-formatted", "-t", CLUSTER_ID, "-c", str(self._properties)),
            )

    def command(self) -> list[str]:
        options = ["-XX:MaxDirectMemorySize=128m", f"-Dlog4j2.configurationFile={self.folder}/log4j2.properties"]
        return self.java("kafka.Kafka", str(self._properties), options=options)

    def probe(self) -> None:
        from kafka import KafkaAdminClient  # noqa: PLC0415 - see Server.probe

        login = {"security_protocol": "SASL_PLAINTEXT", "sasl_mechanism": "PLAIN", "sasl_plain_username": USER}
        options = {**login, "sasl_plain_password": self.password} if self.password else {}
        admin = KafkaAdminClient(bootstrap_servers=self.address, request_timeout_ms=5_000, **options)
        try:
            admin.list_topics()
        finally:
            admin.close()

    @property
    def _properties(self) -> Path:
        return self.folder / "server.properties"

    def _configuration(self) -> str:
        protocol = "SASL_PLAINTEXT" if self.password else "PLAINTEXT"
        configuration = self._without_login(protocol)
        return configuration + self._login() if self.password else configuration

    def _login(self) -> str:
        module = "org.apache.kafka.common.security.plain.PlainLoginModule"
        users = f'username="{USER}" password="{self.password}" user_{USER}="{self.password}"'
        return f"""\
sasl.enabled.mechanisms=PLAIN
sasl.mechanism.inter.broker.protocol=PLAIN
listener.name.sasl_plaintext.plain.sasl.jaas.config={module} required {users};
"""

    def _without_login(self, protocol: str) -> str:
        return f"""\
process.roles=broker,controller
node.id=1
controller.quorum.bootstrap.servers={HOST}:{self.controller_port}
listeners={protocol}://{self.address},CONTROLLER://{HOST}:{self.controller_port}
advertised.listeners={protocol}://{self.address}
controller.listener.names=CONTROLLER
inter.broker.listener.name={protocol}
listener.security.protocol.map={protocol}:{protocol},CONTROLLER:PLAINTEXT
log.dirs={self.folder}/data
# One node has one copy of everything.
offsets.topic.replication.factor=1
offsets.topic.num.partitions=4
transaction.state.log.replication.factor=1
transaction.state.log.min.isr=1
transaction.state.log.num.partitions=4
share.coordinator.state.topic.replication.factor=1
share.coordinator.state.topic.min.isr=1
# A topic that nobody made is an error, not an accident.
auto.create.topics.enable=false
# Quick to join, and quick to be back after a crash: the old session has to end first.
group.initial.rebalance.delay.ms=0
broker.session.timeout.ms=2000
broker.heartbeat.interval.ms=500
# What retention and compaction let go goes while a test waits for it.
log.retention.check.interval.ms=200
log.cleaner.backoff.ms=200
# Small.
log.cleaner.dedupe.buffer.size=16777216
num.network.threads=2
num.io.threads=4
"""
