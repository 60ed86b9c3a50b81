// Nodes without items go.
UNWIND $keys AS key
MATCH (node:Node {key: key})
DETACH DELETE node
