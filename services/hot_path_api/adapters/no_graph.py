"""The Graph of a region that has none: it knows nothing, at once."""

# ruff: noqa: ARG002 - the arguments are the port's

from collections.abc import Sequence

import numpy as np

from hot_path_api.domain.candidates import NO_CANDIDATES, Candidates, SourceQuery
from hot_path_api.domain.ports import Contribution
from servicekit.arrays import Floats, Keys


class NoGraph:
    """Answers every question with nothing."""

    async def expand(self, queries: Sequence[SourceQuery], *, timeout_s: float) -> Sequence[Candidates]:
        """Give no candidates."""
        return [NO_CANDIDATES] * len(queries)

    async def related(
        self,
        tenant: str,
        item_key: int,
        *,
        limit: int,
        timeout_s: float,
    ) -> tuple[Keys, Floats]:
        """Give no items."""
        return np.empty(0, np.int64), np.empty(0, np.float32)

    async def explain(
        self,
        tenant: str,
        history_keys: Keys,
        item_keys: Keys,
        *,
        limit: int,
        timeout_s: float,
    ) -> Sequence[Contribution]:
        """Give no paths."""
        return ()
