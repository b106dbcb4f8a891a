-- DEL: delete a session that holds nothing beyond a vector, and leave a tombstone.
-- KEYS  1 session  2 log  3 user's set  4 conversation  5 tombstone
-- ARGV  1 session id  2 vector that the deletion covers
-- Reply {OK, 0, 0, entry id, joined tombstone}
--       {DUP, 0, 0, '', tombstone}      it stands already; nothing written
--       {NEWER, 0, 0, '', vector}       Redis holds messages beyond it; nothing written
--       {FOREIGN|PROTOCOL}              nothing written
local sid, dead = ARGV[1], argument_vector(ARGV[2])
if not dead then return redis.error_reply('ERR a deletion without a vector') end

local old = call('GET', KEYS[5])
local joined, known = {}, old and argument_vector(old) or {}
for origin, n in pairs(dead) do joined[origin] = n end
for origin, n in pairs(known) do joined[origin] = math.max(n, joined[origin] or 0) end

local t, why = read_tail(KEYS[1])
if why == 'FOREIGN' or why == 'PROTOCOL' then return {why} end
if t and not covers(joined, t.vv) then return {'NEWER', 0, 0, '', write_vector(t.vv)} end
local text = write_vector(joined)
if not t and old == text then return {'DUP', 0, 0, '', text} end

local id = call('XADD', KEYS[2], 'MAXLEN', '~', LOG_LENGTH, '*', 'k', 'del', 's', sid, 'v', text)
call('EXPIRE', KEYS[2], LOG_TTL)
call('SET', KEYS[5], text, 'EX', TOMB_TTL)
call('DEL', KEYS[1], KEYS[4])
call('SREM', KEYS[3], sid)
return {'OK', 0, 0, id, text}
