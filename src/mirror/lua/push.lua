-- PUSH: append messages of one origin to a session and to its user's log.
-- KEYS  1 session  2 log  3 user's set  4 conversation  [5 lease]
-- ARGV  1 time to live (s; 0: none)  2 origin  3 sequence of the first message
--       4 state: `,"lastUsedAt":"…",…`  5 token of the lease, or ''  6… messages (JSON objects)
-- Reply {OK|NOINDEX, sequence, length, entry id}    written; NOINDEX: the user's set lacks it
--       {DUP|FORK|GAP, sequence}                    nothing written
--       {MISS|FOREIGN|PROTOCOL|NOLOG|WIDE|LARGE}    nothing written
--       {TORN}                                      the value did not have its length: removed
-- Calls GETRANGE, XADD, SETRANGE, EXPIRE; with a lease GETDEL; every ten minutes STRLEN, SISMEMBER,
-- TTL, EXPIRE, SET; a day's first EXPIRE of the log. A wide tail costs one GETRANGE more, a repeated
-- message one GET.
-- Touches no key that it does not declare.
local FIRST = 6
local ttl, origin, from = lifetime(ARGV[1]), ARGV[2], tonumber(ARGV[3])
local sid = KEYS[1]:match('[^:]*$')

local t, why = read_tail(KEYS[1])
if not t then return {why} end
local have, to = t.vv[origin] or 0, from + #ARGV - FIRST
if from > have + 1 then return {'GAP', have} end

-- Nobody can read it, and what it held is on the hosts.
local function torn()
  call('DEL', KEYS[1])
  return {'TORN'}
end

-- What is there already must be the same bytes: a host that went back in time numbers anew.
if from <= have then
  local value = call('GET', KEYS[1])
  if #value ~= t.L then return torn() end
  for i = from, math.min(to, have) do
    if not value:find(ARGV[FIRST + i - from], 1, true) then return {'FORK', have} end
  end
  if to <= have then
    if KEYS[5] then release(KEYS[5], ARGV[5]) end
    return {'DUP', have}
  end
end

local blob = table.concat(ARGV, ',', FIRST + have + 1 - from)
local length, start = t.L, t.L - t.width -- the old tail begins there: the comma's place
local day = math.floor(t.at / 86400000000)
t.vv[origin] = to
t.state = newer_state(t.state, ARGV[4])
t.width = fit(t)
if not t.width then return {'WIDE'} end
t.L = start + 1 + #blob + t.width
if t.L > VALUE_MAX then return {'LARGE'} end

local field, payload = 'b', '[' .. blob .. ']'
if #payload > ENTRY_MAX then
  field, payload = 'r', string.format('%.0f %.0f', start + 1, #blob)
end
local id = call('XADD', KEYS[2], 'NOMKSTREAM', 'MAXLEN', '~', LOG_LENGTH, '*',
  'k', 'add', 's', sid, 'o', origin, 'f', have + 1, field, payload)
if not id then return {'NOLOG'} end

t.at = stamp(id)
local verdict = 'OK'
if math.abs(t.at - t.ix) >= REFRESH_S * 1000000 then
  if call('STRLEN', KEYS[1]) ~= length then return torn() end
  if call('SISMEMBER', KEYS[3], sid) == 1 then
    keep(KEYS[3], ttl + INDEX_S, INDEX_S - REFRESH_S)
    call('SET', KEYS[4], sid, 'EX', ttl + INDEX_S)
    t.ix = t.at
  else
    verdict = 'NOINDEX'
  end
end
if call('SETRANGE', KEYS[1], start, ',' .. blob .. write_tail(t, t.width)) ~= t.L then
  return torn()
end
call('EXPIRE', KEYS[1], ttl)
if math.floor(t.at / 86400000000) ~= day then call('EXPIRE', KEYS[2], LOG_TTL) end
if KEYS[5] then release(KEYS[5], ARGV[5]) end
return {verdict, to, t.L, id}
