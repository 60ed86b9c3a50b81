// What nodes are called and how many items they have.
UNWIND $keys AS key
MATCH (node:Node {key: key})
USING INDEX SEEK node:Node(key)
RETURN collect([node.key - $slot, node.name, node.degree]) AS nodes
