"""What every store that is migrated keeps its word on; an adapter joins with a subclass of four lines."""

from abc import ABC, abstractmethod
from collections.abc import AsyncIterator
from typing import ClassVar

import pytest

from servicekit.errors import StartupError
from servicekit.migrations import MigrationTarget, check, migrate, parse_migrations


class MigrationTargetContract(ABC):
    port: ClassVar = "MigrationTarget"
    text: ClassVar[str]
    """Three migrations in the store's language, 0001 and 0002 expand and 0003 contracts."""
    comment: ClassVar[str]

    @pytest.fixture
    @abstractmethod
    def target(self) -> MigrationTarget | AsyncIterator[MigrationTarget]:
        """Give a store that was never migrated."""

    async def test_a_lock_is_one_owner_s(self, target: MigrationTarget) -> None:
        assert await target.lock("one", 60.0)
        assert not await target.lock("two", 60.0)
        assert await target.lock("one", 60.0)
        await target.unlock("two")
        assert not await target.lock("two", 60.0)
        await target.unlock("one")
        assert await target.lock("two", 60.0)

    async def test_nothing_was_applied_to_a_new_store(self, target: MigrationTarget) -> None:
        assert await target.applied() == {}
        with pytest.raises(StartupError, match="0001"):
            await check(target, parse_migrations(self.text, comment=self.comment))

    async def test_a_store_is_migrated_once(self, target: MigrationTarget) -> None:
        migrations = parse_migrations(self.text, comment=self.comment)
        assert await migrate(target, migrations) == list(migrations[:2])
        await check(target, migrations)
        assert await migrate(target, migrations) == []
        assert await migrate(target, migrations, phase="contract") == [migrations[2]]
        assert await target.applied() == {each.number: each.checksum for each in migrations}

    async def test_what_was_begun_can_be_done_again(self, target: MigrationTarget) -> None:
        migrations = parse_migrations(self.text, comment=self.comment)
        assert await target.lock("killed", 1.0)
        for statement in migrations[0].statements:
            await target.execute(statement)
        assert await migrate(target, migrations, lock_wait_s=10.0) == list(migrations[:2])
