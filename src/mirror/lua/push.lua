-- PUSH: append messages of one origin to a session and to its user's log.
-- KEYS  1 session  2 log  [user's set  conversation]  [lease]
-- ARGV  1 time to live (s; 0: none)  2 origin
--       3 sequence of the first message, then the lengths of all but the last, with their commas
--       4 state: `"last used","status","model"`  5 messages: `,{…},{…}`  [6 token of the lease]
-- Reply {OK|NOINDEX, sequence, length, entry id, seconds}    written; NOINDEX: the user's set lacks it,
--                or it is time to look and its key was not named; seconds: until it is time to
--       {DUP|FORK|GAP, sequence}                    nothing written
--       {MISS|FOREIGN|PROTOCOL|NOLOG|WIDE|LARGE}    nothing written
--       {TORN}                                      the value did not have its length: removed
-- Calls GETRANGE, XADD, SETRANGE, EXPIRE; many bytes cost one SETRANGE more; with a lease GETDEL;
-- every ten minutes STRLEN, SISMEMBER, TTL, EXPIRE, SET; a day's first EXPIRE of the log. A wide tail
-- costs one GETRANGE more, a repeated message one GET.
-- Touches no key that it does not declare.
local ttl, origin, messages = lifetime(ARGV[1]), ARGV[2], ARGV[5]
local first, lens = ARGV[3]:match('^(%d+)(.*)$')
local from = tonumber(first)
local to = from + select(2, lens:gsub(' ', ' '))
local sid = KEYS[1]:match('[^:]*$')
local indexed, lease = #KEYS >= 4, #KEYS % 2 == 1 and KEYS[#KEYS] or nil

local t, why = read_tail(KEYS[1])
if not t then return {why} end
local have = t.vv[origin] or 0
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
  local at, seq, pos = 1, from, 1
  local function known(len)
    if seq > have then return true end
    local message = messages:sub(at + 1, at + len - 1)
    local _, last = value:find(message, pos, true) -- an origin's messages stand in order
    if not last then return false end
    at, seq, pos = at + len, seq + 1, last
    return true
  end
  for len in lens:gmatch('%d+') do
    if not known(tonumber(len)) then return {'FORK', have} end
  end
  if not known(#messages + 1 - at) then return {'FORK', have} end
  if to <= have then
    if lease then release(lease, ARGV[6]) end
    return {'DUP', have}
  end
  messages = messages:sub(at)
end

local length, start = t.L, t.L - t.width -- the old tail begins there: the comma's place
local day = math.floor(t.at / 86400000000)
t.vv[origin] = to
t.state = newer_state(t.state, argument_state(ARGV[4]))
t.width = fit(t)
if not t.width then return {'WIDE'} end
t.L = start + #messages + t.width
if t.L > VALUE_MAX then return {'LARGE'} end

local field, payload = 'r', string.format('%.0f %.0f', start + 1, #messages - 1)
if #messages + 1 <= ENTRY_MAX then field, payload = 'b', '[' .. messages:sub(2) .. ']' end
local id = call('XADD', KEYS[2], 'NOMKSTREAM', 'MAXLEN', '~', LOG_LENGTH, '*',
  'k', 'add', 's', sid, 'o', origin, 'f', have + 1, field, payload)
if not id then return {'NOLOG'} end

t.at = stamp(id)
local verdict, left = 'OK', REFRESH_S - math.ceil(math.abs(t.at - t.ix) / 1000000)
if left <= 0 and not indexed then
  verdict = 'NOINDEX'
elseif left <= 0 then
  if call('STRLEN', KEYS[1]) ~= length then return torn() end
  if call('SISMEMBER', KEYS[3], sid) == 1 then
    keep(KEYS[3], ttl + INDEX_S, INDEX_S - REFRESH_S)
    call('SET', KEYS[4], sid, 'EX', ttl + INDEX_S)
    t.ix, left = t.at, REFRESH_S
  else
    verdict = 'NOINDEX'
  end
end
local pieces = {messages}
if #messages > PIECE_MAX then
  call('SETRANGE', KEYS[1], start, messages)
  start, pieces = start + #messages, {}
end
add_tail(t, pieces)
if call('SETRANGE', KEYS[1], start, table.concat(pieces)) ~= t.L then return torn() end
call('EXPIRE', KEYS[1], ttl)
if math.floor(t.at / 86400000000) ~= day then call('EXPIRE', KEYS[2], LOG_TTL) end
if lease then release(lease, ARGV[6]) end
return {verdict, to, t.L, id, left}
