// Items lose their nodes.
UNWIND $keys AS key
MATCH (:Item {key: key})-[has:HAS]->(:Node)
DELETE has
