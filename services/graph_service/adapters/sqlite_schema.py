"""The tables of the graph; a released script never changes, the next one is appended."""

from typing import Final

_FIRST = """
-- Every item that was ever described; of a deleted one only the time is left, so that nothing older brings it back.
CREATE TABLE item (
    item_key         INTEGER PRIMARY KEY,
    tenant           TEXT    NOT NULL,
    occurred_at_ms   INTEGER NOT NULL,
    visible_from_ms  INTEGER NOT NULL,
    visible_until_ms INTEGER NOT NULL,
    item_type        TEXT,             -- NULL: deleted
    created_at_ms    INTEGER NOT NULL,
    attributes       TEXT    NOT NULL  -- JSON
);

-- A person, genre or country; degree is its number of items.
CREATE TABLE node (
    node_key INTEGER PRIMARY KEY,
    kind     INTEGER NOT NULL,
    name     TEXT    NOT NULL,
    degree   INTEGER NOT NULL
);

-- An edge between an item and a node; siblings is how many nodes of that kind the item has.
CREATE TABLE link (
    node_key INTEGER NOT NULL,
    item_key INTEGER NOT NULL,
    kind     INTEGER NOT NULL,
    siblings INTEGER NOT NULL,
    PRIMARY KEY (node_key, item_key)
) WITHOUT ROWID;
CREATE INDEX link_by_item ON link (item_key, kind, node_key, siblings);

-- What a user last did with an item; an edge when the weight is positive.
CREATE TABLE took (
    item_key       INTEGER NOT NULL,
    user_key       INTEGER NOT NULL,
    weight         REAL    NOT NULL,
    occurred_at_ms INTEGER NOT NULL,
    PRIMARY KEY (item_key, user_key)
) WITHOUT ROWID;
CREATE INDEX took_by_item ON took (item_key, occurred_at_ms, user_key) WHERE weight > 0;
CREATE INDEX took_by_user ON took (user_key, occurred_at_ms, item_key, weight);

-- How many edges each side has.
CREATE TABLE item_degree (
    item_key INTEGER PRIMARY KEY,
    users    INTEGER NOT NULL
);
CREATE TABLE user_degree (
    user_key INTEGER PRIMARY KEY,
    items    INTEGER NOT NULL
);

-- Users who were forgotten, by their hash, and up to when.
CREATE TABLE erased_user (
    user_key       INTEGER PRIMARY KEY,
    occurred_at_ms INTEGER NOT NULL
);
"""

MIGRATIONS: Final = (_FIRST,)
