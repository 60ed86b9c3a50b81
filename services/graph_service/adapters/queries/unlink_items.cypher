// Items lose their nodes.
UNWIND $keys AS key
MATCH (item:Item {key: key})-[has:HAS]->(:Node)
USING INDEX SEEK item:Item(key)
DELETE has
