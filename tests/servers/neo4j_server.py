"""Neo4j community with authentication on; its password is made at the first start and stays in its folder."""

import os
import secrets
from pathlib import Path

from servers.java_server import JavaServer
from servers.server import HOST

USER = "neo4j"
OPENS = ("java.nio", "java.io", "sun.nio.ch", "java.util.concurrent")


class Neo4jServer(JavaServer):
    """One database behind Bolt; neither HTTP nor usage reports."""

    name = "neo4j"

    @property
    def heap_mb(self) -> int:
        return self.settings.neo4j_heap_mb

    @property
    def address(self) -> str:
        return f"bolt://{HOST}:{self.port}"

    @property
    def password(self) -> str:
        """The password of the user neo4j; empty before the first start."""
        return self._password_file.read_text() if self._password_file.exists() else ""

    def prepare(self) -> None:
        for name in ("conf", "data", "logs", "import", "plugins", "run", "licenses"):
            (self.folder / name).mkdir(exist_ok=True)
        (self.folder / "conf" / "neo4j.conf").write_text(self._configuration())
        if not self.password:
            password = secrets.token_urlsafe(18)
            places = {"NEO4J_HOME": str(self.folder), "NEO4J_CONF": str(self.folder / "conf")}
            # `--` since a password may begin with a dash.
            self.run_tool(
                "org.neo4j.cli.AdminTool",
                *("dbms", "set-initial-password", "--", password),
                environment={**os.environ, **places},
            )
            self._password_file.touch(mode=0o600)
            self._password_file.write_text(password)

    def command(self) -> list[str]:
        options = [
            "-XX:-OmitStackTraceInFastThrow",
            "-XX:+DisableExplicitGC",
            "-XX:+UnlockExperimentalVMOptions",
            "-XX:+TrustFinalNonStaticFields",
            "-XX:MaxDirectMemorySize=256m",
            "-Djdk.nio.maxCachedBufferSize=1024",
            "-Dio.netty.tryReflectionSetAccessible=true",
            "-Dlog4j2.disable.jmx=true",
            *(f"--add-opens=java.base/{package}=ALL-UNNAMED" for package in OPENS),
        ]
        places = (f"--home-dir={self.folder}", f"--config-dir={self.folder}/conf")
        return self.java("org.neo4j.server.CommunityEntryPoint", *places, options=options)

    def probe(self) -> None:
        from neo4j import GraphDatabase  # noqa: PLC0415 - see Server.probe

        auth = (USER, self.password)
        with GraphDatabase.driver(
            self.address, auth=auth, connection_timeout=5, max_transaction_retry_time=0
        ) as driver:
            driver.execute_query("RETURN 1")

    @property
    def _password_file(self) -> Path:
        return self.folder / "password"

    def _configuration(self) -> str:
        return f"""\
server.default_listen_address={HOST}
server.default_advertised_address={HOST}
server.bolt.listen_address={HOST}:{self.port}
server.bolt.advertised_address={HOST}:{self.port}
server.http.enabled=false
server.https.enabled=false
dbms.security.auth_enabled=true
dbms.usage_report.enabled=false
server.memory.pagecache.size={self.settings.neo4j_page_cache_mb}m
dbms.memory.transaction.total.max=256m
db.tx_log.preallocate=false
db.tx_log.rotation.retention_policy=1 files
"""
