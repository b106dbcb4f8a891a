ALTER TABLE session ADD COLUMN branched INTEGER NOT NULL DEFAULT 0;

CREATE TABLE mark (
    sid TEXT PRIMARY KEY,
    cid TEXT NOT NULL DEFAULT '',
    user TEXT NOT NULL DEFAULT '',
    dirty INTEGER NOT NULL DEFAULT 0,
    unsent INTEGER NOT NULL DEFAULT 0,
    generation INTEGER NOT NULL DEFAULT 0,
    stamp INTEGER NOT NULL DEFAULT 0,
    aside TEXT,
    tomb TEXT,
    tomb_at INTEGER
) STRICT, WITHOUT ROWID;

CREATE INDEX mark_dirty ON mark (sid) WHERE dirty = 1;
CREATE INDEX mark_user ON mark (user);
CREATE INDEX mark_tomb ON mark (tomb_at) WHERE tomb_at IS NOT NULL;
CREATE INDEX mark_aside ON mark (sid) WHERE aside IS NOT NULL;

CREATE TABLE cursor (
    name TEXT PRIMARY KEY,
    value TEXT NOT NULL
) STRICT, WITHOUT ROWID;
