// Which migrations were applied.
MATCH (done:SchemaMigration)
WHERE done.number > 0
RETURN done.number AS number, done.checksum AS checksum
