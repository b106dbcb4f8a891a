CREATE TABLE origin (
    id INTEGER PRIMARY KEY,
    started_at INTEGER NOT NULL
) STRICT;

CREATE TABLE session (
    id INTEGER PRIMARY KEY,
    sid TEXT NOT NULL UNIQUE,
    cid TEXT NOT NULL UNIQUE,
    user TEXT NOT NULL,
    own INTEGER NOT NULL,
    model TEXT NOT NULL,
    sandbox TEXT NOT NULL,
    cwd TEXT NOT NULL,
    title TEXT NOT NULL,
    initial_prompt TEXT NOT NULL,
    engine TEXT NOT NULL,
    origin INTEGER NOT NULL,
    created_at INTEGER NOT NULL,
    ttl_ms INTEGER NOT NULL,
    check_at INTEGER,
    restored_at INTEGER NOT NULL DEFAULT 0,
    archived_at INTEGER,
    archive_reason INTEGER NOT NULL DEFAULT 0
) STRICT;

CREATE INDEX session_user ON session (user);
CREATE INDEX session_user_live ON session (user) WHERE archived_at IS NULL;
CREATE INDEX session_check ON session (check_at) WHERE check_at IS NOT NULL;
CREATE INDEX session_archived ON session (archived_at);

CREATE TABLE message (
    id INTEGER PRIMARY KEY,
    session INTEGER NOT NULL,
    hlc INTEGER NOT NULL,
    origin INTEGER NOT NULL,
    seq INTEGER NOT NULL,
    parent_origin INTEGER NOT NULL,
    parent_seq INTEGER NOT NULL,
    kind INTEGER NOT NULL,
    at INTEGER NOT NULL,
    turn TEXT,
    hash BLOB NOT NULL,
    frag TEXT NOT NULL
) STRICT;

CREATE INDEX message_order ON message (session, hlc, origin, seq);

CREATE TABLE turn (
    id INTEGER PRIMARY KEY,
    tid TEXT NOT NULL UNIQUE,
    session INTEGER NOT NULL,
    continued INTEGER NOT NULL,
    status INTEGER NOT NULL,
    started_at INTEGER NOT NULL,
    ended_at INTEGER NOT NULL DEFAULT 0,
    duration_ms INTEGER NOT NULL DEFAULT 0,
    timeout_ms INTEGER NOT NULL,
    model TEXT NOT NULL,
    model_fallback INTEGER NOT NULL DEFAULT 0,
    sandbox TEXT NOT NULL,
    engine TEXT NOT NULL DEFAULT '',
    engine_version TEXT NOT NULL DEFAULT '',
    thread_id TEXT NOT NULL DEFAULT '',
    engine_turn_id TEXT NOT NULL DEFAULT '',
    input INTEGER NOT NULL DEFAULT -1,
    cached_input INTEGER NOT NULL DEFAULT -1,
    output INTEGER NOT NULL DEFAULT -1,
    total_input INTEGER NOT NULL DEFAULT -1,
    total_cached_input INTEGER NOT NULL DEFAULT -1,
    total_output INTEGER NOT NULL DEFAULT -1,
    prompt_message INTEGER NOT NULL,
    answer_message INTEGER NOT NULL DEFAULT 0,
    error_code TEXT NOT NULL DEFAULT '',
    error TEXT NOT NULL DEFAULT '',
    evicted TEXT NOT NULL
) STRICT;

CREATE UNIQUE INDEX turn_running ON turn (session) WHERE status = 0;

CREATE TABLE idempotency (
    turn INTEGER PRIMARY KEY,
    key TEXT NOT NULL UNIQUE,
    body BLOB NOT NULL,
    created_at INTEGER NOT NULL
) STRICT;

CREATE INDEX idempotency_created ON idempotency (created_at);

CREATE TABLE tally (
    name TEXT PRIMARY KEY,
    value INTEGER NOT NULL
) STRICT, WITHOUT ROWID;

INSERT INTO tally (name, value) VALUES
    ('sessions.live', 0),
    ('sessions.archived', 0),
    ('turns.running', 0),
    ('turns.completed', 0),
    ('turns.failed', 0),
    ('turns.interrupted', 0),
    ('turns.cancelled', 0),
    ('tokens.input', 0),
    ('tokens.cached_input', 0),
    ('tokens.output', 0),
    ('top.session', 0),
    ('top.message', 0),
    ('top.turn', 0);
