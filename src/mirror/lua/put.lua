-- PUT: create or replace a whole session.
-- KEYS  1 session  2 log  3 user's set  4 conversation  5 tombstone  [6 lease]
-- ARGV  1 session id  2 time to live (s; 0: none)  3 prefix  4 messages  5 their vector
--       6 state: `"last used","status","model"`  7 version of the prefix  8 note for the log, or ''
--       9 limit of the user, or 0  10 stamp to heal with, or 0 for activity
--       11 SHA-1 of the foreign value that is replaced, or ''  12 token of the lease, or ''
-- Reply {OK, anew, length, entry id, '', {evicted session id…}}   anew 1: the log may have been gone
--       {DUP, 0, 0, '', vector}              Redis has the same; nothing written
--       {TOMB|STALE, 0, 0, '', vector}       Redis knows of more; nothing written
--       {FOREIGN|PROTOCOL|WIDE|LARGE|EXPIRED}   nothing written; FOREIGN also when the value that
--                was to be replaced is gone: a late import would add its messages once more
--       {FULL}   these messages were evicted just now, or (healing) fresher sessions use up the
--                limit; the session is not in Redis
-- A new session calls MGET, GETRANGE, SRANDMEMBER (with a limit SMEMBERS), EXISTS (where there are many
-- members, one in eight), XADD, SET, SET, SADD, TTL; many bytes cost two APPENDs; with a lease GETDEL;
-- every five minutes EXPIRE, EXPIRE; making room costs more.
-- Reads and evicts other sessions of the user: keys that it does not declare.
local sid, ttl, prefix, messages = ARGV[1], lifetime(ARGV[2]), ARGV[3], ARGV[4]
local new, mv = argument_vector(ARGV[5]), ARGV[7]
local limit, heal = tonumber(ARGV[9]), tonumber(ARGV[10])

local EVICTED_S = 900 -- how long an eviction is remembered, against requests that come late
local NEVER = 9007199254740991

local session_prefix = KEYS[1]:sub(1, #KEYS[1] - #sid)
local conversation_prefix = KEYS[4]:match('^(.*:)') or ''
local function eviction_key(id) return 'cx:out:' .. id end

-- The stamp of a session whose tail is not for us: the old design sets an hour at each use.
local function stamp_by_ttl(key)
  local now, left = call('TIME'), call('TTL', key)
  return (tonumber(now[1]) - 3600 + left) * 1000000
end

-- The user's other sessions: those that live, the least recent first, and members without a value.
local function by_age(members)
  local live, gone = {}, {}
  for _, other in ipairs(members) do
    local key = session_prefix .. other
    local t, why = read_tail(key)
    if why == 'MISS' then
      gone[#gone + 1] = other
    else
      live[#live + 1] = {sid = other, at = t and t.at or stamp_by_ttl(key), t = t}
    end
  end
  table.sort(live, function(a, b)
    if a.at ~= b.at then return a.at < b.at end
    return a.sid < b.sid
  end)
  return live, gone
end

-- Those of the first members that have no value; one call if there are none.
local function dangling(members)
  local keys, gone = {}, {}
  for i = 1, math.min(#members, 100) do keys[i] = session_prefix .. members[i] end
  if #keys == 0 or call('EXISTS', unpack(keys)) == #keys then return gone end
  for i, key in ipairs(keys) do
    if call('EXISTS', key) == 0 then gone[#gone + 1] = members[i] end
  end
  return gone
end

-- Checks ------------------------------------------------------------------------------------------

if not new or messages == '' then return redis.error_reply('ERR a session without messages') end
local marks = call('MGET', KEYS[5], eviction_key(sid))
if marks[1] and covers(argument_vector(marks[1]) or {}, new) then
  return {'TOMB', 0, 0, '', marks[1]}
end

local t, why = read_tail(KEYS[1])
if t and call('STRLEN', KEYS[1]) ~= t.L then t, why = nil, 'TORN' end -- nobody can read it
if why == 'PROTOCOL' then return {why} end
if (why == 'FOREIGN' or ARGV[11] ~= '') and
    redis.sha1hex(call('GET', KEYS[1]) or '') ~= ARGV[11] then
  return {'FOREIGN'}
end
if why == 'MISS' and marks[2] then
  local version, vector = marks[2]:match('^(%d+) (.*)$')
  if version and covers(argument_vector(vector) or {}, new) and not less(version, mv) then
    return {'FULL'}
  end
end
if t and (not covers(new, t.vv) or less(mv, t.mv)) then
  return {'STALE', 0, 0, '', write_vector(t.vv)}
end
local mine = t and call('SISMEMBER', KEYS[3], sid) == 1
local same = t and mv == t.mv and covers(t.vv, new) -- then only what is around it may be missing
if same and mine and call('EXISTS', KEYS[2], KEYS[4]) == 2 then
  if KEYS[6] then release(KEYS[6], ARGV[12]) end
  return {'DUP', 0, 0, '', write_vector(t.vv)}
end

local life, at = ttl, 0
if heal > 0 then
  at = math.max(heal, t and t.at or 0)
  life = ttl - math.max(0, math.floor(call('TIME')[1] - at / 1000000))
  if life <= 0 then return {'EXPIRED'} end
end

local out = {at = NEVER, ix = NEVER, L = 0, mv = mv, vv = new, state = argument_state(ARGV[6]), width = WIDTH}
if t then
  out.state, out.width = newer_state(t.state, out.state), t.width
end
out.width = fit(out)
if not out.width then return {'WIDE'} end
out.L = #prefix + #messages + out.width
if out.L > VALUE_MAX then return {'LARGE'} end

local evict, gone, others = {}, {}, {}
local sample = sid:byte(-1) % 8 == 0 and 64 or 8 -- of a large set: one PUT in eight cleans for all
local has_place = t and mine
if not has_place then
  local members = limit > 0 and call('SMEMBERS', KEYS[3]) or call('SRANDMEMBER', KEYS[3], sample)
  for _, member in ipairs(members) do
    if member ~= sid then others[#others + 1] = member end
  end
end
if limit > 0 and not has_place and #others >= limit then
  local live
  live, gone = by_age(others)
  local over = #live + 1 - limit
  if heal > 0 and over > 0 and live[over].at >= at then
    if why ~= 'MISS' then
      call('XADD', KEYS[2], '*', 'k', 'evict', 's', sid)
      call('EXPIRE', KEYS[2], LOG_TTL)
      call('DEL', KEYS[1], KEYS[4])
      call('SREM', KEYS[3], sid)
    end
    return {'FULL'}
  end
  for i = 1, over do evict[i] = live[i] end
elseif limit > 0 or #others < 8 or sample > 8 then
  gone = dangling(others)
end

-- Writes ------------------------------------------------------------------------------------------

for _, other in ipairs(evict) do call('XADD', KEYS[2], '*', 'k', 'evict', 's', other.sid) end
local entry = {'k', 'put', 's', sid, 'v', write_vector(new), 'a', string.format('%.0f', at)}
if ARGV[8] ~= '' then
  entry[#entry + 1] = 'n'
  entry[#entry + 1] = ARGV[8]
end
local id = call('XADD', KEYS[2], 'NOMKSTREAM', 'MAXLEN', '~', LOG_LENGTH, '*', unpack(entry))
local has_log = id and #evict == 0 -- else what was just written may have made it
if not id then id = call('XADD', KEYS[2], '*', unpack(entry)) end

local names = {}
for i, other in ipairs(evict) do
  local key = session_prefix .. other.sid
  local head = call('GETRANGE', key, 0, 255)
  local cid = head:match('^{"sessionId":"[^"]*","conversationId":"([^"\\]*)"')
  if other.t then
    local mark = other.t.mv .. ' ' .. write_vector(other.t.vv)
    call('SET', eviction_key(other.sid), mark, 'EX', EVICTED_S)
  end
  if cid then call('DEL', key, conversation_prefix .. cid) else call('DEL', key) end
  names[i] = other.sid
  gone[#gone + 1] = other.sid
end
for i = 1, #gone, 100 do
  call('SREM', KEYS[3], unpack(gone, i, math.min(i + 99, #gone)))
end

if same then
  out.L = t.L
else
  out.ix = stamp(id)
  out.at = heal > 0 and at or out.ix
  local large = #prefix + #messages > PIECE_MAX
  local pieces = large and {} or {prefix, messages}
  add_tail(out, pieces)
  call('SET', KEYS[1], large and prefix or table.concat(pieces), 'EX', life)
  if large then
    call('APPEND', KEYS[1], messages)
    call('APPEND', KEYS[1], table.concat(pieces))
  end
end
call('SET', KEYS[4], sid, 'EX', life + INDEX_S)
if not mine then call('SADD', KEYS[3], sid) end
if keep(KEYS[3], life + INDEX_S, INDEX_S - REFRESH_S) or not has_log then
  call('EXPIRE', KEYS[2], LOG_TTL)
end
if KEYS[6] then release(KEYS[6], ARGV[12]) end
return {'OK', has_log and 0 or 1, out.L, id, '', names}
