// Which items nodes have.
UNWIND $rows AS row
MATCH (node:Node {key: row.key})
SET node.degree = row.degree, node.members = row.members
