-- The tables of codex-sessiond.db as migrations/ build them. A test compares the two.
--
-- Times named *_at are wall clock milliseconds since 1970 (UTC), durations and time-outs milliseconds.
-- Ids are local to this host and are never given out twice. No foreign keys are declared: the rows of a
-- session are deleted together.
-- PRAGMA application_id is 0x43785364 ("CxSd"), PRAGMA user_version the number of migrations applied.

-- A start of the daemon, as the author of messages. A new one at every start: a restored backup never
-- repeats a sequence number.
CREATE TABLE origin (
    id INTEGER PRIMARY KEY,      -- 63 random bits; shown as 16 hex digits, which sort as the numbers do
    started_at INTEGER NOT NULL  -- when it began
) STRICT;

-- A conversation. Its last use is not kept here: it is the time of its newest message.
CREATE TABLE session (
    id INTEGER PRIMARY KEY,
    sid TEXT NOT NULL UNIQUE,     -- session id shown to clients
    cid TEXT NOT NULL UNIQUE,     -- conversation id shown to clients
    user TEXT NOT NULL,           -- who it belongs to: a label
    own INTEGER NOT NULL,         -- 1: the daemon's own user (no userId was given)
    model TEXT NOT NULL,          -- asked for, or what the fallback settled on
    sandbox TEXT NOT NULL,        -- read-only, workspace-write or danger-full-access
    cwd TEXT NOT NULL,            -- working directory, absolute
    title TEXT NOT NULL,          -- may be empty
    initial_prompt TEXT NOT NULL, -- the beginning of the first prompt
    engine TEXT NOT NULL,         -- asked for: auto, app-server, mcp or exec
    origin INTEGER NOT NULL,      -- origin.id that created it
    created_at INTEGER NOT NULL,
    ttl_ms INTEGER NOT NULL,      -- sliding time to live; 0: never expires
    check_at INTEGER,             -- no expiry before this time; NULL: archived, or never expires
    restored_at INTEGER NOT NULL DEFAULT 0,   -- last return from the archive; 0: none
    archived_at INTEGER,                      -- NULL while live
    archive_reason INTEGER NOT NULL DEFAULT 0, -- 0 none, 1 expired, 2 evicted by the user's limit
    branched INTEGER NOT NULL DEFAULT 0,      -- 1: it may have been continued on two hosts at once
    approval TEXT NOT NULL DEFAULT 'never'    -- may Codex ask: never or on-request; of this host alone
) STRICT;

CREATE INDEX session_user ON session (user);
CREATE INDEX session_user_live ON session (user) WHERE archived_at IS NULL;
CREATE INDEX session_check ON session (check_at) WHERE check_at IS NOT NULL;
-- Live sessions in the order of id (archived_at is null), archived ones in that of their archiving.
CREATE INDEX session_archived ON session (archived_at);

-- The log of every conversation, append-only. The order of a conversation is (hlc, origin, seq), the same
-- on every host; id is this host's order of arrival.
CREATE TABLE message (
    id INTEGER PRIMARY KEY,
    session INTEGER NOT NULL,       -- session.id
    hlc INTEGER NOT NULL,           -- hybrid logical clock: milliseconds << 16 | count
    origin INTEGER NOT NULL,        -- author: an origin of this host or of another one
    seq INTEGER NOT NULL,           -- 1, 2, 3, … without a hole per (session, origin)
    parent_origin INTEGER NOT NULL, -- (origin, seq) of the newest message when this one was appended;
    parent_seq INTEGER NOT NULL,    --   0, 0: it was the first
    kind INTEGER NOT NULL,          -- 0 user, 1 assistant, 2 context, 3 outcome of a turn that did not complete
    at INTEGER NOT NULL,            -- the timestamp shown
    turn TEXT,                      -- turn id; NULL: outside of a turn
    hash BLOB NOT NULL,             -- first 16 bytes of SHA-256 over hlc, origin, seq, parent_origin,
                                    --   parent_seq, kind, at (big-endian, 8 bytes each) and frag
    frag TEXT NOT NULL              -- the message as a JSON object, ready to be sent
) STRICT;

CREATE INDEX message_order ON message (session, hlc, origin, seq);

-- A prompt's way through Codex on this host. Inserted when it begins, updated once when it ends.
CREATE TABLE turn (
    id INTEGER PRIMARY KEY,
    tid TEXT NOT NULL UNIQUE,                   -- turn id shown to clients
    session INTEGER NOT NULL,                   -- session.id
    continued INTEGER NOT NULL,                 -- 0 for the turn that created the session
    status INTEGER NOT NULL,                    -- 0 running, 1 completed, 2 failed, 3 interrupted, 4 cancelled
    started_at INTEGER NOT NULL,
    ended_at INTEGER NOT NULL DEFAULT 0,        -- 0 while running
    duration_ms INTEGER NOT NULL DEFAULT 0,
    timeout_ms INTEGER NOT NULL,
    model TEXT NOT NULL,                        -- asked for; at the end: what ran
    model_fallback INTEGER NOT NULL DEFAULT 0,  -- 1: Codex did not know the default model and took its own
    sandbox TEXT NOT NULL,                      -- of this turn
    engine TEXT NOT NULL DEFAULT '',            -- driver that ran it: app-server, mcp, exec
    engine_version TEXT NOT NULL DEFAULT '',
    thread_id TEXT NOT NULL DEFAULT '',         -- Codex's id of the thread
    engine_turn_id TEXT NOT NULL DEFAULT '',    -- Codex's id of the turn
    input INTEGER NOT NULL DEFAULT -1,          -- tokens of this turn; -1: unknown
    cached_input INTEGER NOT NULL DEFAULT -1,
    output INTEGER NOT NULL DEFAULT -1,
    total_input INTEGER NOT NULL DEFAULT -1,    -- tokens of the thread after it; -1: unknown
    total_cached_input INTEGER NOT NULL DEFAULT -1,
    total_output INTEGER NOT NULL DEFAULT -1,
    prompt_message INTEGER NOT NULL,            -- message.id
    answer_message INTEGER NOT NULL DEFAULT 0,  -- message.id of the answer or the outcome; 0 while running
    error_code TEXT NOT NULL DEFAULT '',        -- stable name; empty unless it did not complete
    error TEXT NOT NULL DEFAULT '',             -- sentence, likewise
    evicted TEXT NOT NULL,                      -- JSON array of the session ids that its creation put out
    stale INTEGER NOT NULL DEFAULT 0            -- 1: Redis could not be asked for news of the conversation before it
) STRICT;

-- One running turn per session.
CREATE UNIQUE INDEX turn_running ON turn (session) WHERE status = 0;

-- Which turn a client's Idempotency-Key began.
CREATE TABLE idempotency (
    turn INTEGER PRIMARY KEY,   -- turn.id
    key TEXT NOT NULL UNIQUE,   -- as the client sent it
    body BLOB NOT NULL,         -- SHA-256 of method, path and body
    created_at INTEGER NOT NULL
) STRICT;

CREATE INDEX idempotency_created ON idempotency (created_at);

-- Running totals, so that figures cost no scan. The migrations insert the rows.
CREATE TABLE tally (
    name TEXT PRIMARY KEY,  -- sessions.live, turns.completed, tokens.input, …; top.<table>: the greatest id of
                            --   that table given out before rows of it were deleted
    value INTEGER NOT NULL
) STRICT, WITHOUT ROWID;

-- What replication has to remember of a session. A session that is as in Redis needs no row. Rows of deleted
-- sessions hold the tombstone.
CREATE TABLE mark (
    sid TEXT PRIMARY KEY,                  -- session id
    cid TEXT NOT NULL DEFAULT '',          -- conversation id, of a deleted one
    user TEXT NOT NULL DEFAULT '',         -- whose it was, of a deleted one
    dirty INTEGER NOT NULL DEFAULT 0,      -- 1: to be compared with Redis
    unsent INTEGER NOT NULL DEFAULT 0,     -- 1: has messages that Redis never took
    generation INTEGER NOT NULL DEFAULT 0, -- moves when dirty or unsent is set
    stamp INTEGER NOT NULL DEFAULT 0,      -- microseconds of Redis's clock at the last known activity
    aside TEXT,                            -- why it was set aside; NULL: it was not
    tomb TEXT,                             -- version vector that was deleted, as JSON; NULL: none
    tomb_at INTEGER,                       -- when it was last deleted
    unsent_from INTEGER                    -- hlc of this host's first message that Redis never took; NULL: unknown
) STRICT, WITHOUT ROWID;

CREATE INDEX mark_dirty ON mark (sid) WHERE dirty = 1;
CREATE INDEX mark_user ON mark (user);
CREATE INDEX mark_tomb ON mark (dirty, tomb_at) WHERE tomb_at IS NOT NULL;
CREATE INDEX mark_aside ON mark (sid) WHERE aside IS NOT NULL;

-- How far logs were read: of a user's log in Redis the id of an entry; under the empty name the id of the
-- message up to which all were offered to Redis.
CREATE TABLE cursor (
    name TEXT PRIMARY KEY, -- user, or empty
    value TEXT NOT NULL
) STRICT, WITHOUT ROWID;
