"""Changes to the graph in SQLite, as functions of a connection inside a transaction."""

import json
import sqlite3
from collections import Counter
from collections.abc import Iterable, Sequence

from graph_service.domain.graph import DeletedItem, ErasedUser, Interaction, ItemFacts, Mutation, PutItem
from graph_service.domain.ports import Applied

_STAGE = """
CREATE TEMP TABLE IF NOT EXISTS arrived (
    item_key INTEGER NOT NULL, user_key INTEGER NOT NULL, weight REAL NOT NULL, occurred_at_ms INTEGER NOT NULL
)"""

# What is newer than the user's erasure and than what is known, with the weight that it replaces.
_NEWS = """
SELECT a.item_key, a.user_key, a.weight, a.occurred_at_ms, t.weight
FROM arrived a
LEFT JOIN erased_user e ON e.user_key = a.user_key
LEFT JOIN took t ON t.item_key = a.item_key AND t.user_key = a.user_key
WHERE a.occurred_at_ms > coalesce(e.occurred_at_ms, 0)
  AND (t.occurred_at_ms IS NULL OR a.occurred_at_ms > t.occurred_at_ms
       OR (a.occurred_at_ms = t.occurred_at_ms AND a.weight <> t.weight))
"""


def apply(connection: sqlite3.Connection, mutations: Sequence[Mutation]) -> Applied:
    """Make the changes. The kinds are independent of each other's order, so each is done in one go."""
    facts: dict[int, ItemFacts] = {}
    nodes: set[int] = set()
    edges: Counter[int] = Counter()
    for mutation in mutations:
        if isinstance(mutation, PutItem | DeletedItem):
            if _set_item(connection, mutation, nodes):
                facts[mutation.item_key] = mutation.facts
        elif isinstance(mutation, ErasedUser):
            edges.update(_erase(connection, mutation))
    edges.update(_set_edges(connection, [each for each in mutations if isinstance(each, Interaction)]))
    return Applied(facts, frozenset(nodes), dict(edges))


def _set_item(connection: sqlite3.Connection, change: PutItem | DeletedItem, touched: set[int]) -> bool:
    row = _row(change)
    known = connection.execute("SELECT * FROM item WHERE item_key = ?", (change.item_key,)).fetchone()
    if known is not None and known[2] > change.occurred_at_ms:
        return False
    links = connection.execute("SELECT node_key FROM link WHERE item_key = ?", (change.item_key,))
    before = {key for (key,) in links}
    nodes = change.nodes if isinstance(change, PutItem) else ()
    after = {node.key for node in nodes}
    if known == row and before == after:
        return False
    touched |= before | after
    connection.execute("INSERT OR REPLACE INTO item VALUES (?, ?, ?, ?, ?, ?, ?, ?)", row)
    connection.execute("DELETE FROM link WHERE item_key = ?", (change.item_key,))
    connection.executemany(
        "INSERT INTO node VALUES (?, ?, ?, 0) ON CONFLICT DO NOTHING",
        [(node.key, node.kind, node.name) for node in nodes if node.key not in before],
    )
    siblings = Counter(node.kind for node in nodes)
    connection.executemany(
        "INSERT INTO link VALUES (?, ?, ?, ?)",
        [(node.key, change.item_key, node.kind, siblings[node.kind]) for node in nodes],
    )
    steps = [(1, key) for key in after - before] + [(-1, key) for key in before - after]
    connection.executemany("UPDATE node SET degree = degree + ? WHERE node_key = ?", steps)
    connection.executemany("DELETE FROM node WHERE node_key = ? AND degree = 0", [(key,) for key in before - after])
    return True


def _row(change: PutItem | DeletedItem) -> tuple[int, str, int, int, int, str | None, int, str]:
    facts = change.facts
    head = (change.item_key, facts.tenant, change.occurred_at_ms, facts.visible_from_ms, facts.visible_until_ms)
    if isinstance(change, DeletedItem):
        return (*head, None, 0, "{}")
    item = change.filterable
    attributes = json.dumps(dict(sorted(item.attributes.items())), ensure_ascii=False, separators=(",", ":"))
    return (*head, item.item_type, item.created_at_ms, attributes)


def _erase(connection: sqlite3.Connection, change: ErasedUser) -> Iterable[int]:
    key, until_ms = change.user_key, change.occurred_at_ms
    connection.execute(
        "INSERT INTO erased_user VALUES (?, ?) ON CONFLICT (user_key) "
        "DO UPDATE SET occurred_at_ms = max(occurred_at_ms, excluded.occurred_at_ms)",
        (key, until_ms),
    )
    gone = connection.execute(
        "SELECT item_key, weight FROM took WHERE user_key = ? AND occurred_at_ms <= ?", (key, until_ms)
    ).fetchall()
    connection.executemany("DELETE FROM took WHERE item_key = ? AND user_key = ?", [(item, key) for item, _ in gone])
    _step_degrees(connection, "item_degree", {item: -1 for item, weight in gone if weight > 0})
    _step_degrees(connection, "user_degree", {key: -sum(weight > 0 for _, weight in gone)})
    return [item for item, _ in gone]


def _set_edges(connection: sqlite3.Connection, interactions: Sequence[Interaction]) -> Iterable[int]:
    if not interactions:
        return ()
    latest: dict[tuple[int, int], Interaction] = {}
    for each in interactions:
        pair = (each.item_key, each.user_key)
        known = latest.get(pair)
        if known is None or each.occurred_at_ms >= known.occurred_at_ms:
            latest[pair] = each
    connection.execute(_STAGE)
    connection.execute("DELETE FROM arrived")
    connection.executemany(
        "INSERT INTO arrived VALUES (?, ?, ?, ?)",
        [(item, user, each.weight, each.occurred_at_ms) for (item, user), each in sorted(latest.items(), key=_by_pair)],
    )
    news = connection.execute(_NEWS).fetchall()
    connection.executemany("INSERT OR REPLACE INTO took VALUES (?, ?, ?, ?)", [row[:4] for row in news])
    items: Counter[int] = Counter()
    users: Counter[int] = Counter()
    for item, user, weight, _, replaced in news:
        step = (weight > 0) - (replaced is not None and replaced > 0)
        items[item] += step
        users[user] += step
    _step_degrees(connection, "item_degree", items)
    _step_degrees(connection, "user_degree", users)
    return [item for item, *_ in news]


def _by_pair(entry: tuple[tuple[int, int], Interaction]) -> tuple[int, int]:
    return entry[0]


def _step_degrees(connection: sqlite3.Connection, table: str, steps: dict[int, int]) -> None:
    key, count = ("item_key", "users") if table == "item_degree" else ("user_key", "items")
    changed = [(each, step) for each, step in steps.items() if step]
    connection.executemany(
        f"INSERT INTO {table} VALUES (?, ?) ON CONFLICT ({key}) DO UPDATE SET {count} = {count} + excluded.{count}",  # noqa: S608 - our own names
        changed,
    )
