"""The shared servers are found where the settings say, by the clients that the services use."""

from urllib.parse import urlsplit

import psutil
import pytest
from servers.addresses import Addresses
from servers.fleet import fleet
from servers.settings import ServersSettings

pytestmark = pytest.mark.integration

NAMES = ["kafka", "cassandra", "neo4j", "redis", "qdrant", "s3"]


@pytest.mark.parametrize("name", NAMES)
def test_a_server_that_is_up_has_an_address(servers: Addresses, name: str) -> None:
    address = getattr(servers, name)
    assert urlsplit(address if "://" in address else f"//{address}").port == getattr(servers.settings, f"{name}_port")


@pytest.mark.parametrize("name", NAMES)
def test_a_server_listens_on_this_machine_only(servers: Addresses, name: str) -> None:
    process = fleet(servers.settings)[name].process()
    assert process is not None
    listeners = {
        connection.laddr.ip for connection in process.net_connections("inet") if connection.status == psutil.CONN_LISTEN
    }
    assert listeners <= {"127.0.0.1", "::ffff:127.0.0.1"}


def test_a_server_that_is_not_up_fails_the_test_in_one_line() -> None:
    nowhere = Addresses(ServersSettings(kafka_port=1))
    with pytest.raises(pytest.fail.Exception, match=r"^kafka does not answer at 127\.0\.0\.1:1: run `make servers`$"):
        _ = nowhere.kafka
