-- Deletions that Redis was told of apart from those that wait.
DROP INDEX mark_tomb;
CREATE INDEX mark_tomb ON mark (dirty, tomb_at) WHERE tomb_at IS NOT NULL;
