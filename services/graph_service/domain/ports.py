"""What the graph's store must promise."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

from graph_service.domain.graph import FilterableItem, Floats, ItemFacts, Keys, MetaPath, Mutation, NodeKind


@dataclass(frozen=True, slots=True)
class RelatednessRule:
    """The constants of the formula at the top of the proto.

    Args:
        person_damping, genre_damping, user_damping: The exponent of a middle node's degree, for each meta-path.
        person_max_degree, genre_max_degree: A node of more items relates none.
        users_per_item: Of an item's users the newest so many stand for all.
        items_per_user: Of a user's items the newest so many count.
        kept_per_path: How many related items are kept for each meta-path.
        explained_users: Up to so many users an item the number of common users is exact.
    """

    person_damping: float = 0.5
    genre_damping: float = 0.75
    user_damping: float = 0.75
    person_max_degree: int = 1_000
    genre_max_degree: int = 5_000
    users_per_item: int = 300
    items_per_user: int = 200
    kept_per_path: int = 100
    explained_users: int = 1_000

    def damping_of(self, kind: NodeKind) -> float:
        """Give the exponent of a node's degree; countries only explain, and come last when they do."""
        return {NodeKind.PERSON: self.person_damping, NodeKind.GENRE: self.genre_damping, NodeKind.COUNTRY: 1.0}[kind]

    def max_degree_of(self, kind: NodeKind) -> int:
        """Give the number of items above which a node relates none."""
        return {NodeKind.PERSON: self.person_max_degree, NodeKind.GENRE: self.genre_max_degree, NodeKind.COUNTRY: 0}[
            kind
        ]


@dataclass(frozen=True, slots=True)
class RelatedItems:
    """What is related to one item.

    Args:
        keys: int64[n], ascending.
        scores: float32[n, 3], a column for each of CANDIDATE_PATHS.
        nodes: The keys of the people and genres that the item has; when one of them changes, so does this.
        users: How many users have an edge to the item.
    """

    keys: Keys
    scores: Floats
    nodes: tuple[int, ...]
    users: int


@dataclass(frozen=True, slots=True)
class GraphPath:
    """The way from one item to another over one middle node, or over all their common users together.

    Args:
        history_key: Where it begins.
        item_key: Where it ends.
        meta_path: Over what it leads.
        through: The middle node's name, or the number of common users.
        share: The summand of the formula that goes over it, before any weight of the meta-path.
    """

    history_key: int
    item_key: int
    meta_path: MetaPath
    through: str
    share: float


@dataclass(frozen=True, slots=True)
class Applied:
    """What changes did.

    Args:
        facts: The new facts of the items whose state changed.
        nodes: The keys of the nodes between changed items and others, before and after.
        new_edges: For each item how many users' edges to it changed.
    """

    facts: Mapping[int, ItemFacts]
    nodes: frozenset[int]
    new_edges: Mapping[int, int]


@dataclass(frozen=True, slots=True)
class GraphCounts:
    """How much a graph holds.

    Args:
        items: Described and not deleted.
        users: With at least one relation.
        relations: Between users and items.
        links: Between items and people, genres or countries.
    """

    items: int
    users: int
    relations: int
    links: int


class GraphRebuild(Protocol):
    """A graph that is being built beside the one that serves; what GraphStore.apply writes goes to both.

    Its life: filled, looked at, then finished or abandoned. Whoever begins another one ends it: then all methods but
    `abandon` raise NotFoundError.
    """

    async def fill(self, mutations: Sequence[Mutation]) -> None:
        """Make changes in the new graph only, as GraphStore.apply would."""
        ...

    async def counts(self) -> GraphCounts:
        """Count what the new graph holds."""
        ...

    async def related(self, item_keys: Keys, rule: RelatednessRule) -> Sequence[RelatedItems]:
        """Compute related items in the new graph, as GraphStore.related would."""
        ...

    async def finish(self) -> None:
        """Let the new graph serve from now on, in one step, and remove the old one."""
        ...

    async def abandon(self) -> None:
        """Give it up; the old graph serves on. After `finish` it does nothing."""
        ...


class GraphStore(Protocol):
    """Keeps the graph. Of two changes to the same thing the later by event time stays, in any order of arrival.

    All methods raise UnavailableError when the store cannot be reached.
    """

    async def apply(self, mutations: Sequence[Mutation]) -> Applied:
        """Make changes, all or none; they are durable when it returns. Doing it twice changes nothing more."""
        ...

    async def related(self, item_keys: Keys, rule: RelatednessRule) -> Sequence[RelatedItems]:
        """Compute the related items of each item, in their order; an unknown item has none.

        Items that nobody has described may be among them: whether one may be shown is for its facts to say.
        """
        ...

    async def facts(self, item_keys: Keys) -> Mapping[int, ItemFacts]:
        """Give the facts of the items that were ever described; those of a deleted one say that it is invisible."""
        ...

    async def look_again(self, described: Keys, taken: Keys) -> Mapping[int, ItemFacts]:
        """Learn that another process has described some items and that users took others.

        Nothing that was remembered of them is used afterwards, and what is read afterwards is not older than this call.
        Gives the facts of those described, as `facts` does.
        """
        ...

    async def filterable(self, item_keys: Keys) -> Mapping[int, FilterableItem]:
        """Give what filters ask of items; those unknown or deleted are missing."""
        ...

    async def paths(self, history_keys: Keys, item_keys: Keys, rule: RelatednessRule) -> Sequence[GraphPath]:
        """Give every path from any of the history's items to any of the others, never from an item to itself."""
        ...

    async def busiest_items(self, limit: int) -> Keys:
        """Give the items with the most users, most first."""
        ...

    async def counts(self) -> GraphCounts:
        """Count what the graph holds."""
        ...

    async def serving(self) -> str:
        """Name the graph that serves; another name says that a rebuilt one has taken its place."""
        ...

    async def begin_rebuild(self) -> GraphRebuild:
        """Begin an empty graph beside the one that serves; an unfinished one is given up for it."""
        ...

    async def close(self) -> None:
        """Finish what was begun; nothing may be asked afterwards."""
        ...
