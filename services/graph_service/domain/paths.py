"""The paths between items over arrays: each shared node is one, all common users together are another."""

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Final

import numpy as np

from graph_service.domain.graph import PATH_THROUGH, Keys, MetaPath, NodeKind
from graph_service.domain.ports import GraphPath, RelatednessRule
from graph_service.domain.relatedness import Doubles

LARGEST_KEY: Final = (1 << 63) - 1


@dataclass(frozen=True, slots=True)
class Link:
    """A node of an item.

    Args:
        kind: Whether it is a person, a genre or a country.
        siblings: How many nodes of this kind the item has.
        name: The node's name.
        degree: How many items the node has.
    """

    kind: NodeKind
    siblings: int
    name: str
    degree: int


@dataclass(frozen=True, slots=True)
class Sample:
    """The users of an item with the smallest keys, which are hashes: a random sample, the same for every item.

    Args:
        users: int64[n], ascending.
        bound: The largest key that it would hold; LARGEST_KEY when all users are there.
        degree: How many users the item really has.
    """

    users: Keys
    bound: int
    degree: int

    @classmethod
    def of(cls, users: Keys, degree: int) -> "Sample":
        """Make a sample of the first users of an item, ascending."""
        return cls(users, int(users[-1]) if degree > len(users) > 0 else LARGEST_KEY, degree)


@dataclass(frozen=True, slots=True)
class Between:
    """What was read around the items of a history and others.

    Args:
        links: For each item its nodes by key.
        samples: For each item its users.
        users: int64[m], at least those that an item of the history shares with one of the others, ascending.
        damping: float64[m], 1 / d(u)^damping of each.
    """

    links: Mapping[int, Mapping[int, Link]]
    samples: Mapping[int, Sample]
    users: Keys
    damping: Doubles

    def paths(self, history_keys: Keys, item_keys: Keys, rule: RelatednessRule) -> list[GraphPath]:
        """Give every path from any of the history's items to any of the others, never from an item to itself."""
        pairs = [(h, i) for h in history_keys.tolist() for i in item_keys.tolist() if h != i]
        return [path for pair in pairs for over in (self._over_nodes, self._over_users) for path in over(*pair, rule)]

    def _over_nodes(self, history: int, item: int, rule: RelatednessRule) -> Iterator[GraphPath]:
        here, there = self.links.get(history, {}), self.links.get(item, {})
        for node, link in here.items():
            other = there.get(node)
            if other is not None:
                share = link.degree ** -rule.damping_of(link.kind) / math.sqrt(link.siblings * other.siblings)
                yield GraphPath(history, item, PATH_THROUGH[link.kind], link.name, share)

    def _over_users(self, history: int, item: int, _: RelatednessRule) -> Iterator[GraphPath]:
        here, there = self.samples.get(history), self.samples.get(item)
        if here is None or there is None:
            return
        bound = min(here.bound, there.bound)
        common = np.intersect1d(here.users, there.users, assume_unique=True)
        common = common[common <= bound]
        if len(common):
            scale = float(LARGEST_KEY) / bound
            damping = self.damping[np.searchsorted(self.users, common)].sum()
            share = damping * scale / math.sqrt(here.degree * there.degree)
            yield GraphPath(history, item, MetaPath.ITEM_USER_ITEM, str(round(len(common) * scale)), float(share))
