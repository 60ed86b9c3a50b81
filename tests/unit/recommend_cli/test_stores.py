from pathlib import Path

import pytest
from typer.testing import CliRunner

from recommend_cli.app import app
from recommend_cli.errors import CommandError
from recommend_cli.stack import stores as stores_module
from recommend_cli.stack.folder import RunFolder, StackState, stores_of
from recommend_cli.stack.plan import GATEWAY, plan_stack
from recommend_cli.stack.stores import DEFAULT_DATA_DIR, StoreKind, open_stores, read_settings

SHARED = """
# the team's servers
EVENT_LOG_URL=kafka://10.0.0.1:9092,10.0.0.2:9092
PROFILE_STORE_URL=cql://10.0.0.1:9042/${NAMESPACE}
GRAPH_STORE_URL=bolt://10.0.0.1:7687
NEO4J_PASSWORD=with=sign # and hash
"""


@pytest.fixture
def settings_file(tmp_path: Path) -> Path:
    file = tmp_path / "stores.env"
    file.write_text(SHARED)
    return file


def test_embedded_stores_are_the_default_and_nothing_that_the_shell_says(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PROFILE_STORE_URL", "cql://elsewhere:9042/other")
    plan = plan_stack(open_stores(tmp_path), port=0, api_key="", auth=False)
    for service in plan.services:
        assert service.environment["PROFILE_STORE_URL"] == ""
        assert service.environment["EVENT_LOG_URL"] == f"sqlite:///{tmp_path}/log"
        assert service.environment["MODEL_STORE_URL"] == f"file://{tmp_path}/models"
        assert service.environment["DATA_DIR"] == str(tmp_path)


def test_a_file_names_the_stores_and_what_it_does_not_name_is_embedded(tmp_path: Path, settings_file: Path) -> None:
    stores = open_stores(tmp_path / "data", file=settings_file)
    environment = plan_stack(stores, port=0, api_key="", auth=False).services[0].environment
    assert environment["EVENT_LOG_URL"] == "kafka://10.0.0.1:9092,10.0.0.2:9092"
    assert environment["NEO4J_PASSWORD"] == "with=sign # and hash"  # noqa: S105 - nobody's
    assert environment["REDIS_URL"] == ""
    assert environment["MODEL_STORE_URL"] == f"file://{tmp_path}/data/servers/models"
    assert "with=sign" not in repr(stores)


def test_each_data_folder_has_a_name_of_its_own_in_shared_stores(tmp_path: Path, settings_file: Path) -> None:
    names = {
        open_stores(tmp_path / folder, file=settings_file).settings["PROFILE_STORE_URL"].rpartition("/")[2]
        for folder in ("first", "second", "first")
    }
    assert len(names) == 2
    assert all(name.startswith("stack_") for name in names)
    settings_file.write_text(SHARED + "NAMESPACE=ours\nTENANT=${NAMESPACE}\n")
    stores = open_stores(tmp_path / "first", file=settings_file)
    settings = stores.settings
    assert stores.tenant == "ours"
    assert settings["PROFILE_STORE_URL"] == "cql://10.0.0.1:9042/ours"
    assert "NAMESPACE" not in settings


def test_the_default_folder_serves_the_default_tenant(
    tmp_path: Path, settings_file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings_file.write_text(SHARED + "TENANT=${NAMESPACE}\n")
    monkeypatch.chdir(tmp_path)
    assert open_stores(DEFAULT_DATA_DIR, file=settings_file).tenant == "default"
    assert open_stores(tmp_path / ".data", file=settings_file).tenant == "default"
    assert open_stores(tmp_path / "other", file=settings_file).tenant.startswith("stack_")


def test_a_file_that_is_missing_or_wrong_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(CommandError, match="cannot be read"):
        open_stores(tmp_path, file=tmp_path / "none")
    monkeypatch.setattr(stores_module, "SERVERS_FILE", tmp_path / "not-written-yet")
    with pytest.raises(CommandError, match="cannot be read") as caught:
        open_stores(tmp_path, StoreKind.SERVERS)
    assert "make servers" in caught.value.hint
    (tmp_path / "wrong").write_text("REDIS_URL=redis://h\n\nexport KAFKA=1\n")
    with pytest.raises(CommandError, match=r"wrong, line 3, is not NAME=value"):
        read_settings(tmp_path / "wrong")


def test_replicas_have_names_ports_and_files_of_their_own(tmp_path: Path, settings_file: Path) -> None:
    stores = open_stores(tmp_path, file=settings_file)
    plan = plan_stack(stores, port=0, api_key="key", auth=True, replicas=2)
    assert len(plan.services) == 10
    for field in ("name", "port", "metrics_port"):
        assert len({getattr(service, field) for service in plan.services}) == 10
    gateways = [service for service in plan.services if service.service == GATEWAY]
    assert plan.urls == tuple(f"http://{gateway.endpoint}" for gateway in gateways)
    stores_of_profiles = [service for service in plan.services if service.service == "profile_store"]
    for gateway in gateways:
        assert gateway.environment["AGENTDB_ENDPOINT"] == ",".join(each.endpoint for each in stores_of_profiles)
    assert len({each.environment["AGENTDB_PORT"] for each in stores_of_profiles}) == 2
    assert [each.environment["MEMBER"] for each in stores_of_profiles] == ["profile_store-1", "profile_store-2"]
    assert len({each.environment["DATA_DIR"] for each in stores_of_profiles}) == 2


def test_replicas_need_stores_that_can_be_shared(tmp_path: Path) -> None:
    with pytest.raises(CommandError, match="PROFILE_STORE_URL, GRAPH_STORE_URL"):
        plan_stack(open_stores(tmp_path), port=0, api_key="", auth=False, replicas=2)


def test_the_stores_of_a_running_stack_are_what_it_was_started_with(tmp_path: Path, settings_file: Path) -> None:
    folder = RunFolder(tmp_path)
    with folder.locked():
        folder.write_state(StackState(1, 1.0, "ready", ("http://h:1",), auth=True, settings_file=str(settings_file)))
        assert stores_of(tmp_path).file == settings_file
    assert stores_of(tmp_path).file is None


def test_migrating_embedded_stores_is_nothing_to_do(tmp_path: Path) -> None:
    result = CliRunner().invoke(app, ["migrate", "--data-dir", str(tmp_path)])
    assert result.exit_code == 0
    assert "nothing to do" in result.output


def test_a_migration_that_fails_is_told_in_its_own_words(tmp_path: Path) -> None:
    file = tmp_path / "stores.env"
    file.write_text("PROFILE_STORE_URL=cql://127.0.0.1:1/nobody-listens\nSTORE_WAIT_S=0\n")
    result = CliRunner().invoke(app, ["migrate", "--data-dir", str(tmp_path), "--settings", str(file)])
    assert isinstance(result.exception, CommandError)
    assert result.exception.message.startswith("profile_store was not migrated: ")
