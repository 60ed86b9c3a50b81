// What the users took last, and which items the nodes have: one packed text each.
UNWIND $users AS key
MATCH (user:User {key: key})
USING INDEX SEEK user:User(key)
RETURN collect(user.newest_items) AS packed
UNION ALL
UNWIND $nodes AS key
MATCH (node:Node {key: key})
USING INDEX SEEK node:Node(key)
RETURN collect(node.members) AS packed
