"""The tables of the SQLite store, as migrations."""

import json
import sqlite3
from collections.abc import Iterable

BUILT_IN_NUMBERS = {1: "view", 2: "like", 3: "add_to_cart", 4: "purchase", 5: "rating"}
"""The numbers of the built-in types, as the first migration gives them."""

MIGRATIONS = (
    """
CREATE TABLE tenants (tenant_no INTEGER PRIMARY KEY, name TEXT NOT NULL UNIQUE);

-- Interactions hold the number of their type. The built-in types have theirs from the start.
CREATE TABLE type_names (type_no INTEGER PRIMARY KEY, name TEXT NOT NULL UNIQUE);
INSERT INTO type_names VALUES (1, 'view'), (2, 'like'), (3, 'add_to_cart'), (4, 'purchase'), (5, 'rating');

-- What a tenant has made of a type; a built-in type without a row is as it comes.
CREATE TABLE interaction_types (
    tenant_no INTEGER NOT NULL,
    type_no INTEGER NOT NULL,
    weight REAL NOT NULL,
    centre REAL,
    counts_as_seen INTEGER NOT NULL,
    PRIMARY KEY (tenant_no, type_no)
) WITHOUT ROWID;

-- Every item that was ever named. Without a body it does not exist: it was only interacted with (updated_at_ms is 0),
-- or it was deleted at updated_at_ms.
CREATE TABLE items (
    item_key INTEGER PRIMARY KEY,
    tenant_no INTEGER NOT NULL,
    item_type TEXT NOT NULL,
    item_id TEXT NOT NULL,
    updated_at_ms INTEGER NOT NULL DEFAULT 0,
    hidden INTEGER NOT NULL DEFAULT 0,
    available_from_ms INTEGER,
    available_until_ms INTEGER,
    body TEXT
);
CREATE INDEX items_by_name ON items (tenant_no, item_type, item_id) WHERE body IS NOT NULL;

-- The users that have interactions.
CREATE TABLE users (
    user_key INTEGER PRIMARY KEY,
    tenant_no INTEGER NOT NULL,
    user_id TEXT NOT NULL,
    interaction_count INTEGER NOT NULL
);
CREATE INDEX users_by_name ON users (tenant_no, user_id);

-- Up to when a user was erased; all that is left of the user, under a hash.
CREATE TABLE erasures (user_key INTEGER PRIMARY KEY, erased_until_ms INTEGER NOT NULL);

-- The events that were applied: 63 bits of a hash of tenant and event_id.
CREATE TABLE events (event_key INTEGER PRIMARY KEY);

-- In the order in which they are read, for one user and for an export. The arrival numbers grow over all tenants.
CREATE TABLE interactions (
    tenant_no INTEGER NOT NULL,
    user_key INTEGER NOT NULL,
    occurred_at_ms INTEGER NOT NULL,
    arrival INTEGER NOT NULL,
    item_key INTEGER NOT NULL,
    type_no INTEGER NOT NULL,
    value REAL,
    event_id TEXT NOT NULL,
    PRIMARY KEY (tenant_no, user_key, occurred_at_ms, arrival)
) WITHOUT ROWID;
CREATE TABLE arrivals (last INTEGER NOT NULL);
INSERT INTO arrivals VALUES (0);

-- The decayed sums of positive weights as of reference_ms; see domain/popularity.py.
CREATE TABLE popularity (
    item_key INTEGER PRIMARY KEY,
    tenant_no INTEGER NOT NULL,
    reference_ms INTEGER NOT NULL,
    hour REAL NOT NULL,
    day REAL NOT NULL,
    week REAL NOT NULL,
    month REAL NOT NULL,
    total REAL NOT NULL
);
""",
    """
-- What agents have learned. The user is '' where all of an agent's users share the policy.
CREATE TABLE policies (
    tenant_no INTEGER NOT NULL,
    agent_id TEXT NOT NULL,
    user_id TEXT NOT NULL,
    state TEXT NOT NULL,
    version INTEGER NOT NULL,
    created_at_ms INTEGER NOT NULL,
    updated_at_ms INTEGER NOT NULL,
    document BLOB NOT NULL,
    PRIMARY KEY (tenant_no, agent_id, user_id, state)
);
CREATE INDEX policies_by_user ON policies (tenant_no, user_id);

-- What agents did, in the order in which it is read.
CREATE TABLE episodes (
    tenant_no INTEGER NOT NULL,
    agent_id TEXT NOT NULL,
    user_key INTEGER NOT NULL,
    occurred_at_ms INTEGER NOT NULL,
    episode_id TEXT NOT NULL,
    state TEXT NOT NULL,
    action TEXT NOT NULL,
    probability REAL,
    document BLOB NOT NULL,
    PRIMARY KEY (tenant_no, agent_id, user_key, occurred_at_ms, episode_id)
);
CREATE UNIQUE INDEX episodes_by_id ON episodes (tenant_no, agent_id, episode_id);
CREATE INDEX episodes_by_user ON episodes (tenant_no, user_key);

-- What came of it.
CREATE TABLE rewards (
    tenant_no INTEGER NOT NULL,
    agent_id TEXT NOT NULL,
    user_key INTEGER NOT NULL,
    occurred_at_ms INTEGER NOT NULL,
    reward_id TEXT NOT NULL,
    episode_id TEXT NOT NULL,
    value REAL NOT NULL,
    PRIMARY KEY (tenant_no, agent_id, user_key, occurred_at_ms, reward_id)
);
CREATE UNIQUE INDEX rewards_by_id ON rewards (tenant_no, agent_id, reward_id);
CREATE INDEX rewards_by_user ON rewards (tenant_no, user_key);
""",
)


def key_list(keys: Iterable[int]) -> str:
    """Give keys as the one parameter of `IN (SELECT value FROM json_each(?))`."""
    return json.dumps(list(keys))


def tenant_number(connection: sqlite3.Connection, tenant: str) -> int:
    """Give a tenant's number, a new one when it is seen for the first time."""
    row = connection.execute("SELECT tenant_no FROM tenants WHERE name = ?", (tenant,)).fetchone()
    if row is None:
        row = connection.execute("INSERT INTO tenants (name) VALUES (?) RETURNING tenant_no", (tenant,)).fetchone()
    return int(row[0])
