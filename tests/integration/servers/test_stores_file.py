"""What `make servers` tells `recommend up --stores servers`."""

import stat
from pathlib import Path

import httpx
import pytest
from servers.fleet import fleet
from servers.server import free_port
from servers.settings import ServersSettings
from servers.stores import BUCKET, Places, write_settings

from recommend_cli.stack.stores import open_stores, read_settings

pytestmark = pytest.mark.integration


def test_the_file_names_every_store_and_is_its_owners_secret(tmp_path: Path) -> None:
    settings = ServersSettings(data_dir=tmp_path / "servers", s3_port=free_port())
    servers = fleet(settings)
    file = tmp_path / "stores.env"
    with servers["s3"] as s3:
        s3.start()
        for _ in range(2):  # writing it again changes nothing
            write_settings(file, Places(servers))
        assert httpx.get(f"{s3.address}/{BUCKET}").is_success
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert read_settings(file)["REDIS_URL"] == servers["redis"].address
    stores = open_stores(tmp_path / "data", file=file)
    stores.require_shared()
    assert stores.tenant.startswith("stack_")
    assert stores.event_log_url == f"kafka://{servers['kafka'].address}"
    assert stores.settings["PROFILE_STORE_URL"] == f"cql://{servers['cassandra'].address}/{stores.tenant}"
    assert stores.model_store_url == f"s3://{BUCKET}/{stores.tenant}"
