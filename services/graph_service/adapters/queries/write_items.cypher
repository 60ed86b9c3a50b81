// Items' whole new states; a deleted one has no type.
UNWIND $rows AS row
MATCH (item:Item {key: row.key})
USING INDEX SEEK item:Item(key)
SET item += row.state
