// Locks items, making those that are new, before their state is read.
UNWIND $keys AS key
MERGE (item:Item {key: key})
SET item.locked = true
WITH item
RETURN collect([
  item.key, item.users, item.newest_users, item.newest_at_ms, item.nodes, item.tenant, item.occurred_at_ms,
  item.visible_from_ms, item.visible_until_ms, item.item_type, item.created_at_ms, item.attributes
]) AS items
