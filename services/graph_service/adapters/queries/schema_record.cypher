// Remembers that a migration was applied.
MERGE (done:SchemaMigration {number: $number})
SET done.name = $name, done.checksum = $checksum, done.applied_at_ms = timestamp()
