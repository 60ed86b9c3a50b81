"""What the environment may tell graph_service."""

from collections.abc import Mapping
from typing import Annotated, ClassVar, Literal

from pydantic import Field, SecretStr

from servicekit.settings import ServiceSettings

Weight = Annotated[float, Field(ge=0.0, allow_inf_nan=False)]
Exponent = Annotated[float, Field(ge=0.0, le=2.0)]
Count = Annotated[int, Field(ge=1)]


class GraphServiceSettings(ServiceSettings):
    """Settings of graph_service; lists and mappings are JSON in the environment."""

    secrets_of: ClassVar[Mapping[str, str]] = {"neo4j_password": "graph_store_url"}

    grpc_port: int = Field(default=50052, ge=0, le=65535)
    """Port of the gRPC server; 0 takes a free one."""
    graph_store_url: str = Field(
        default="", pattern=r"^$|^(bolt|neo4j)(\+s|\+ssc)?://(\[[0-9a-fA-F:.]+\]|[^/:?#@\s]+)(:\d{1,5})?/?(\?\S+)?$"
    )
    """Where the graph is: `bolt://HOST:PORT` for one Neo4j, `neo4j://HOST:PORT` for a cluster, `+s` behind the scheme
    for TLS; without it SQLite in the data folder."""
    sqlite_synchronous: Literal["full", "normal"] = "full"
    """Whether an applied change survives a power cut (full) or only a killed process (normal)."""

    # Neo4j.
    neo4j_username: str = "neo4j"
    """Who we are to Neo4j."""
    neo4j_password: SecretStr = SecretStr("")
    """Its password."""
    neo4j_database: Annotated[str, Field(min_length=1)] = "neo4j"
    """Which of the server's databases; the graph fills it."""
    neo4j_pool_size: Annotated[int, Field(ge=1, le=1_000)] = 16
    """The most connections to each server."""
    neo4j_read_timeout_s: Annotated[float, Field(gt=0.0)] = 10.0
    """How long a read may take, its tries included; the server drops it then."""
    neo4j_write_timeout_s: Annotated[float, Field(gt=0.0)] = 60.0
    """How long a write may take, its tries included; the server drops it then."""
    neo4j_connect_timeout_s: Annotated[float, Field(gt=0.0)] = 5.0
    """How long a connection may take to be there, or to become free."""
    neo4j_known_degrees: Count = 1_000_000
    """Of so many items the number of users is remembered, some 100 bytes each."""

    agentdb_endpoint: str = "127.0.0.1:50053"
    """Where profile_store is, as host:port; asked only when the graph is rebuilt from its exports."""
    rebuilt_look_s: Annotated[float, Field(gt=0.0)] = 5.0
    """How often a replica looks whether another one has rebuilt the graph."""

    # What becomes a node. A change holds for items written afterwards; replay `content.changed` for the others.
    person_attributes: tuple[str, ...] = ("directors", "director", "actors", "cast", "authors", "writers")
    """Attributes whose texts are people."""
    genre_attributes: tuple[str, ...] = ("genres", "genre")
    """Attributes whose texts are genres."""
    country_attributes: tuple[str, ...] = ("countries", "country")
    """Attributes whose texts are countries."""

    # What an interaction is worth. Events carry type and value, the weights live in profile_store: who changes them
    # there changes them here too.
    interaction_weights: dict[str, Annotated[float, Field(allow_inf_nan=False)]] = Field(default_factory=dict)
    """Signed weights by interaction type, beside or instead of view 1, like 2, add_to_cart 3 and purchase 5; a type
    named nowhere is worth 1. Only the sign matters here."""
    rating_centre: float = Field(default=2.5, allow_inf_nan=False)
    """A rating is worth its value less this."""

    # The relatedness formula, see the proto. The defaults here and of the composition did best on MovieLens-100K: each
    # user's last ten but five predicted from what came before (HR@10 .233, 67 % of them among 100 candidates).
    person_damping: Exponent = 0.5
    """Exponent of the degree of a person."""
    genre_damping: Exponent = 0.75
    """Exponent of the degree of a genre."""
    user_damping: Exponent = 0.75
    """Exponent of the degree of a user."""
    person_max_degree: Count = 1_000
    """A person of more items relates none."""
    genre_max_degree: Count = 5_000
    """A genre of more items relates none."""
    users_per_item: Count = 300
    """Of an item's users the newest so many stand for all."""
    items_per_user: Count = 200
    """Of a user's items the newest so many count."""
    related_per_path: Annotated[int, Field(ge=1, le=1_000)] = 100
    """Related items kept of each meta-path."""
    explained_users: Count = 1_000
    """Up to so many users an item the number of common users in an explanation is exact."""

    # How candidates are composed.
    person_weight: Weight = 0.05
    """Multiplier of item-person-item for callers who name none."""
    genre_weight: Weight = 0.1
    """Multiplier of item-genre-item for callers who name none."""
    user_weight: Weight = 1.0
    """Multiplier of item-user-item for callers who name none."""
    history_items: Annotated[int, Field(ge=1, le=200)] = 10
    """History items used of each user."""
    history_half_life_items: Annotated[float, Field(gt=0.0)] = 2.0
    """After so many positions a history item counts half."""
    composed_per_item: Count = 100
    """Related items used of each history item; all of them for a short history and under a filter."""
    fill_timeout_s: Annotated[float, Field(ge=0.0)] = 0.05
    """How long at most an answer waits for related items that are not in the cache."""

    # The cache.
    cached_lists: Count = 20_000
    """Related lists in memory, 8 KiB each at most when 100 items are kept of each meta-path."""
    cached_items: Count = 2_000_000
    """Items in these lists, some 150 bytes each; beyond that the cache begins anew."""
    list_max_age_s: Annotated[float, Field(ge=0.0)] = 300.0
    """A list is computed again after this time if anything has changed."""
    list_min_age_s: Annotated[float, Field(ge=0.0)] = 2.0
    """A list is not computed again before this time."""
    list_max_new_edges: Count = 20
    """A list is computed again after so many interactions with its item, sooner if it has few users."""
    warm_lists: Annotated[int, Field(ge=0)] = 5_000
    """Lists of the most touched items that are computed before anybody asks."""

    # The event log.
    consumer_member: Annotated[str, Field(max_length=200)] = ""
    """This replica's name in its consumer group, the same after a restart and no other's; without it `graph_service`
    with an embedded store and `graph_service-HOSTNAME` otherwise."""
    consumer_max_batch: Annotated[int, Field(ge=1, le=10_000)] = 5_000
    """The most records applied at once."""
    consumer_max_failures_in_a_row: Count = 100
    """After so many bad records one after the other the consumer stops, since something else must be wrong."""
    ready_wait_s: Annotated[float, Field(ge=0.0)] = 30.0
    """How long at most the service waits, before it says that it is ready, to have read what is in the log."""
    ready_warm_s: Annotated[float, Field(ge=0.0)] = 10.0
    """How long at most it then fills its cache from Neo4j, before it says that it is ready; the rest is filled beside
    requests."""
