-- Common to all scripts: put before each of them, after a line of constants from keys.h:
--   WIDTH WIDTH_MAX PROTOCOL VALUE_MAX ENTRY_MAX LOG_LENGTH LOG_TTL TOMB_TTL LONG_TTL INDEX_S
--   REFRESH_S LEASE_MS PIECE_MAX, and BLANKS512 … BLANKS32: so many blanks
--
-- The tail, the last `w` bytes of a session's value:
--   ],"_cx":{"p":1,"L":…,"at":…,"ix":…,"mv":…,"vv":{"origin":n,…}},
--   "lastUsedAt":"…",…,"messageCount":n      ,"w":"1024"}            (in one line)
-- L counts the bytes of the value. `at` is the stamp of the last append: microseconds of the
-- server's clock. `ix` is the stamp at which the index keys were refreshed, `mv` the version of what
-- precedes the messages. Users' JSON is never decoded.
--
-- A script checks everything before its first write; the log is written first, the state after it.
-- Replies: {verdict, sequence, length, entry id, text, list}, cut after the last that matters.

local call = redis.call

-- {"origin":n,…} without its braces to a table; nil if it is anything else.
local function read_vector(text)
  local vv, pos = {}, 1
  while pos <= #text do
    local _, last, origin, n = text:find('^"([%w_-]+)":(%d+)', pos)
    if not last or #n > 15 then return nil end
    vv[origin] = tonumber(n)
    pos = last + 1
    if pos <= #text then
      if text:sub(pos, pos) ~= ',' or pos == #text then return nil end
      pos = pos + 1
    end
  end
  return vv
end

-- A vector that came as an argument.
local function argument_vector(text)
  local inner = text:match('^{(.*)}$')
  return inner and read_vector(inner)
end

local function write_vector(vv)
  local origins, parts = {}, {}
  for origin in pairs(vv) do origins[#origins + 1] = origin end
  table.sort(origins)
  for i, origin in ipairs(origins) do
    parts[i] = '"' .. origin .. '":' .. string.format('%.0f', vv[origin])
  end
  return '{' .. table.concat(parts, ',') .. '}'
end

-- Whether b has all that a has.
local function covers(b, a)
  for origin, n in pairs(a) do
    if n > (b[origin] or 0) then return false end
  end
  return true
end

-- Versions pass 2^53, so they stay decimal text.
local function less(a, b)
  if #a ~= #b then return #a < #b end
  return a < b
end

local function count(vv)
  local sum = 0
  for _, n in pairs(vv) do sum = sum + n end
  return sum
end

local TAIL = '^%],"_cx":{"p":%d+,"L":(%d+),"at":(%d+),"ix":(%d+),"mv":(%d+),"vv":{([^{}]*)}}' ..
  '(,"lastUsedAt":".-),"messageCount":%d+ *,"w":"%d+"}$'

-- The tail of the value at `key`, or nil and MISS, FOREIGN or PROTOCOL.
local function read_tail(key)
  local text = call('GETRANGE', key, -WIDTH, -1)
  if text == '' then return nil, 'MISS' end
  local width = tonumber(text:match(',"w":"(%d%d?%d?%d?%d?)"}$') or 0)
  if width > WIDTH and width <= WIDTH_MAX then text = call('GETRANGE', key, -width, -1) end
  if #text ~= width then return nil, 'FOREIGN' end
  local protocol = text:match('^%],"_cx":{"p":(%d+)[,}]')
  if protocol and tonumber(protocol) > PROTOCOL then return nil, 'PROTOCOL' end
  local L, at, ix, mv, vector, state = text:match(TAIL)
  local vv = vector and read_vector(vector)
  if not vv or tonumber(L) > VALUE_MAX then return nil, 'FOREIGN' end
  return {
    L = tonumber(L), at = tonumber(at), ix = tonumber(ix),
    mv = mv, vv = vv, state = state, width = width,
  }
end

-- The least width, from t.width upwards, that holds the tail, with room for numbers of more digits;
-- nil if none does. L, at and ix may still change. (Each string that is made costs time by its bytes.)
local function fit(t)
  t.rest = string.format(',"mv":%s,"vv":%s}%s,"messageCount":%.0f', t.mv, write_vector(t.vv), t.state,
    count(t.vv))
  local width, need = t.width, #t.rest + 128
  while width < need do width = width * 2 end
  return width <= WIDTH_MAX and width or nil
end

-- Add the pieces of a tail of t.width bytes, which fit() found to be enough.
local function add_tail(t, pieces)
  local head = string.format('],"_cx":{"p":%d,"L":%.0f,"at":%.0f,"ix":%.0f', PROTOCOL, t.L, t.at, t.ix)
  local foot = string.format(',"w":"%d"}', t.width)
  local n, room = #pieces, t.width - #head - #t.rest - #foot
  pieces[n + 1], pieces[n + 2] = head, t.rest
  n = n + 2
  while room >= 512 do n, room, pieces[n + 1] = n + 1, room - 512, BLANKS512 end
  if room >= 256 then n, room, pieces[n + 1] = n + 1, room - 256, BLANKS256 end
  if room >= 128 then n, room, pieces[n + 1] = n + 1, room - 128, BLANKS128 end
  if room >= 64 then n, room, pieces[n + 1] = n + 1, room - 64, BLANKS64 end
  if room >= 32 then n, room, pieces[n + 1] = n + 1, room - 32, BLANKS32 end
  pieces[n + 1], pieces[n + 2] = string.rep(' ', room), foot
end

-- The state's members in the tail; an argument has their values alone: "last used","status","model".
local function argument_state(text)
  local used, status, model = text:match('^("[^"]*"),("[^"]*"),(".*")$')
  return string.format(',"lastUsedAt":%s,"status":%s,"model":%s', used, status, model)
end

local function last_used(state) return state:match('^,"lastUsedAt":"([^"]*)"') or '' end

-- Of two states the one that was used later.
local function newer_state(a, b)
  if last_used(b) > last_used(a) then return b end
  return a
end

-- The stamp of a log entry: its milliseconds with the count within them as microseconds.
local function stamp(id)
  local ms, n = id:match('^(%d+)-(%d+)$')
  return math.min(tonumber(ms) * 1000 + math.min(tonumber(n), 999), 9007199254740991)
end

local function lifetime(ttl)
  ttl = tonumber(ttl)
  return ttl > 0 and ttl or LONG_TTL
end

-- Let a key live for so long, give or take `slack` seconds less. Whether that had to be said.
local function keep(key, seconds, slack)
  if call('TTL', key) >= seconds - slack then return false end
  call('EXPIRE', key, seconds)
  return true
end

-- Free the lease if `token` holds it. Another's, taken in one call, goes back for a full term.
local function release(key, token)
  local held = redis.pcall('GETDEL', key)
  if type(held) == 'string' and held:sub(1, #token + 1) ~= token .. ' ' then
    call('SET', key, held, 'PX', LEASE_MS)
  end
end
