// How many users items have.
UNWIND $keys AS key
MATCH (item:Item {key: key})
RETURN collect(item.key - $slot) AS keys, collect(item.users) AS degrees
