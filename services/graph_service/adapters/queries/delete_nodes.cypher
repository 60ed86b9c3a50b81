// Nodes without items go.
UNWIND $keys AS key
MATCH (node:Node {key: key})
USING INDEX SEEK node:Node(key)
DETACH DELETE node
