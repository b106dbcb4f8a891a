/* base/config: every setting of the daemon, in one table.
 *
 * Layer: base. The table serves flags, environment, the JSON file, reload and help. Precedence:
 * flags over environment over file over default. A cs_config is filled by one thread and then read
 * by many; reloading makes a new one and copies only the reloadable fields (see core).
 */
#ifndef CS_BASE_CONFIG_H
#define CS_BASE_CONFIG_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "cs/base/buf.h"
#include "cs/base/err.h"

/* X(kind, field, flag, default, min, max, secret, reloadable, help)
 *   kind STR|INT|BOOL; field: the C member and, in camelCase, the file's key; flag: "--flag" and
 *   CODEX_SESSIOND_FLAG; a NULL default string means unset; min and max bound INT values and, for
 *   STR, the length in bytes. */
#define CS_CONFIG_TABLE(X)                                                                         \
    X(STR, host, "host", "127.0.0.1", 1, 255, 0, 0, "address to listen on")                        \
    X(INT, port, "port", 3000, 0, 65535, 0, 0, "port to listen on; 0 picks a free one")            \
    X(STR, data_dir, "data-dir", NULL, 1, 4000, 0, 0, "folder of the database and the token")      \
    X(STR, codex, "codex", NULL, 1, 4000, 0, 0, "path of the Codex CLI (default: codex in PATH)")  \
    X(STR, engine, "engine", "auto", 1, 16, 0, 0, "auto, app-server, mcp or exec")                 \
    X(STR, user, "user", NULL, 1, 128, 0, 0, "the daemon's own user (default: the login name)")    \
    X(STR, log_level, "log-level", "info", 1, 8, 0, 1, "debug, info, warn or error")               \
    X(STR, model, "model", "gpt-5-codex", 1, 128, 0, 1, "model when a request names none")         \
    X(STR, sandbox, "sandbox", "read-only", 1, 32, 0, 1, "sandbox when a request names none")      \
    X(STR, sandbox_ceiling, "sandbox-ceiling", "workspace-write", 1, 32, 0, 1,                     \
      "the most a request may ask for: read-only, workspace-write or danger-full-access")          \
    X(STR, cwd, "cwd", NULL, 1, 4000, 0, 1,                                                        \
      "working folder when a request names none (default: home)")                                  \
    X(STR, cwd_allow, "cwd-allow", NULL, 1, 8000, 0, 1,                                            \
      "colon-separated folders; a request's cwd must lie in one (default: any)")                   \
    X(BOOL, allow_remote, "allow-remote", 0, 0, 1, 0, 0,                                           \
      "permit a non-loopback --host; every request then needs the token")                          \
    X(STR, allowed_hosts, "allowed-hosts", NULL, 1, 4000, 0, 1,                                    \
      "comma-separated further names accepted in the Host header")                                 \
    X(INT, ttl_seconds, "ttl-seconds", 3600, 0, 31536000, 0, 1,                                    \
      "sliding life of a session; 0: for ever")                                                    \
    X(INT, session_limit, "session-limit", 10, 1, 100000, 0, 1, "live sessions per given userId")  \
    X(INT, own_session_limit, "own-session-limit", 0, 0, 100000, 0, 1,                             \
      "live sessions of the daemon's own user; 0: no limit")                                       \
    X(INT, archive_days, "archive-days", 30, 0, 36500, 0, 1,                                       \
      "days in the archive; 0: delete at once")                                                    \
    X(INT, turn_timeout_ms, "turn-timeout-ms", 30000, 1000, 3600000, 0, 1, "time-out of a turn")   \
    X(INT, turn_timeout_max_ms, "turn-timeout-max-ms", 3600000, 1000, 3600000, 0, 1,               \
      "the longest time-out a request may ask for, and a turn's end whatever it waits for")        \
    X(INT, approval_timeout_ms, "approval-timeout-ms", 300000, 1000, 3600000, 0, 1,                \
      "how long Codex waits for an approval")                                                      \
    X(INT, idempotency_hours, "idempotency-hours", 24, 1, 720, 0, 1, "life of an Idempotency-Key") \
    X(INT, preamble_bytes, "preamble-bytes", 65536, 1024, 1048576, 0, 1,                           \
      "budget of the transcript sent in a prompt when Codex cannot take it any other way")         \
    X(INT, max_turns, "max-turns", 2000, 1, 8000, 0, 0, "turns that may run at once")              \
    X(INT, max_body_bytes, "max-body-bytes", 8388608, 1024, 67108864, 0, 1,                        \
      "largest request body")                                                                      \
    X(INT, max_reply_bytes, "max-reply-bytes", 33554432, 65536, 268435456, 0, 0,                   \
      "longest line from Codex")                                                                   \
    X(INT, cache_bytes, "cache-bytes", 16777216, 0, 1073741824, 0, 0,                              \
      "cache of rendered histories")                                                               \
    X(INT, http_threads, "http-threads", 2304, 16, 8192, 0, 0,                                     \
      "HTTP worker threads (one per connection)")                                                  \
    X(INT, max_streams, "max-streams", 1024, 1, 4096, 0, 0,                                        \
      "streams that may be open at once; at most as many as requests that may wait")               \
    X(INT, heartbeat_ms, "heartbeat-ms", 15000, 100, 600000, 0, 1,                                 \
      "a stream without an event gets a comment after so long")                                    \
    X(STR, redis_url, "redis-url", NULL, 1, 4000, 1, 1,                                            \
      "Redis or Upstash URL (unset: this host only)")                                              \
    X(STR, redis_token, "redis-token", NULL, 1, 4000, 1, 1, "Upstash token")                       \
    X(STR, redis_ca, "redis-ca", NULL, 1, 4000, 0, 1,                                              \
      "file of the CAs that Redis's certificate is checked against (default: the system's)")       \
    X(STR, host_name, "host-name", NULL, 1, 63, 0, 0,                                              \
      "name of this host in messages that others see (default: the system's)")                     \
    X(STR, openai_api_key, "openai-api-key", NULL, 1, 4000, 1, 0, "API key handed to Codex")       \
    X(BOOL, demo, "demo", 0, 0, 1, 0, 0,                                                           \
      "Codex talks to the demo model server (set by scripts/start)")

#define CS_CONFIG_TYPE_STR  char *
#define CS_CONFIG_TYPE_INT  int64_t
#define CS_CONFIG_TYPE_BOOL bool

struct cs_config {
#define X(kind, field, flag, def, min, max, secret, reload, help) CS_CONFIG_TYPE_##kind field;
    CS_CONFIG_TABLE(X)
#undef X
    char *file; /* path of the file that was read, or NULL */
};

/**
 * Fill @config from defaults, the file, @envp and the flags argv[0..argc). Flags are "--name value"
 * or "--name=value"; a BOOL flag may stand alone. Secret settings have no flag (argv is public):
 * only environment and file. "--config FILE" names the file; else CODEX_SESSIOND_CONFIG; else
 * $XDG_CONFIG_HOME/codex-sessiond/config.json if it exists. Extra environment names: PORT,
 * OPENAI_API_KEY, REDIS_URL, UPSTASH_REDIS_[REST_]URL, UPSTASH_REDIS_[REST_]TOKEN (below their
 * CODEX_SESSIOND_ twins). An unknown flag, file key or CODEX_SESSIOND_ name, a wrong type or a
 * value out of range: CS_INVALID, code "invalid_config", the message names the setting and where it
 * came from, never a secret's value. Unset paths and the user get their defaults
 * ($XDG_DATA_HOME/codex-sessiond or ~/.local/share/codex-sessiond; login name; home).
 */
CS_MUST_USE enum cs_status cs_config_load(struct cs_config *config, int argc, char *const argv[],
                                          char *const envp[], struct cs_err *err);
void cs_config_fini(struct cs_config *config);

/** Copy the reloadable settings of @from into @config (for SIGHUP). Appends to @ignored,
 * comma-separated, the names that differ but need a restart. */
CS_MUST_USE enum cs_status cs_config_reload(struct cs_config *config, const struct cs_config *from,
                                            struct cs_buf *ignored, struct cs_err *err);

/** The table as --help lines: flag, environment name, file key, type, range, default. */
void cs_config_help(struct cs_buf *out);

#endif
