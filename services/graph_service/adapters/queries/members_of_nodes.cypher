// The items of nodes that have too many for a packed list.
UNWIND $keys AS key
CALL (key) {
  MATCH (node:Node {key: key})<-[has:HAS]-(item:Item)
  USING INDEX SEEK node:Node(key)
  WITH item, has LIMIT $limit
  RETURN collect(item.key - $slot) AS items, collect(has.siblings) AS siblings
}
RETURN key - $slot AS key, items, siblings
