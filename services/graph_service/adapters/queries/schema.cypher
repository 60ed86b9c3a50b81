// What the graph is made of. Every `key` is an item's or a node's own key plus the `slot` of one of two graphs, 0 or the
// smallest integer: while a graph is rebuilt in the idle slot, the other one serves, and :Graph says which one does.
//
// (:Item)-[:HAS]->(:Node), a person, genre or country, and (:User)-[:TOOK]->(:Item). A relationship TOOK carries both
// keys, so that an index finds it, and `taken_at_ms` only when its weight is positive. What is asked most is kept
// packed beside it, as little-endian 64-bit integers: an item's newest users, a user's newest items, a node's items.

// migration 0001 expand: items, users and nodes by key, relationships by item and by user
CREATE CONSTRAINT graph_name IF NOT EXISTS FOR (graph:Graph) REQUIRE graph.name IS UNIQUE;
CREATE CONSTRAINT item_key IF NOT EXISTS FOR (item:Item) REQUIRE item.key IS UNIQUE;
CREATE CONSTRAINT user_key IF NOT EXISTS FOR (user:User) REQUIRE user.key IS UNIQUE;
CREATE CONSTRAINT node_key IF NOT EXISTS FOR (node:Node) REQUIRE node.key IS UNIQUE;
CREATE CONSTRAINT took_pair IF NOT EXISTS FOR ()-[took:TOOK]-() REQUIRE (took.item, took.user) IS UNIQUE;
CREATE INDEX took_by_item IF NOT EXISTS FOR ()-[took:TOOK]-() ON (took.item, took.taken_at_ms, took.user);
CREATE INDEX took_by_user IF NOT EXISTS FOR ()-[took:TOOK]-() ON (took.user, took.taken_at_ms, took.item);
CREATE INDEX item_users IF NOT EXISTS FOR (item:Item) ON (item.users);
CALL db.awaitIndexes(100);
MERGE (graph:Graph {name: 'graph'}) ON CREATE SET graph.slot = 0;
