from typing import ClassVar

import pytest
from contract.servicekit.migration_target_contract import MigrationTargetContract

from servicekit.migrations import MemoryMigrationTarget

TEXT = """
-- migration 0001 expand: one
MAKE ONE;
-- migration 0002 expand: two
MAKE TWO;
-- migration 0003 contract: no one
DROP ONE;
"""


class TestMemoryMigrationTarget(MigrationTargetContract):
    adapter: ClassVar = "memory"
    text, comment = TEXT, "--"

    @pytest.fixture
    def target(self) -> MemoryMigrationTarget:
        return MemoryMigrationTarget()
