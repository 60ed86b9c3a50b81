// How many users items have.
UNWIND $keys AS key
MATCH (item:Item {key: key})
USING INDEX SEEK item:Item(key)
RETURN collect(item.key - $slot) AS keys, collect(item.users) AS degrees
