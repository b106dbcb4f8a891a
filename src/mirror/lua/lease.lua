-- LEASE: keep or free the lease of a session's turn. (It is taken by a plain SET … NX PX.)
-- KEYS  1 lease; its value is `token host`
-- ARGV  1 'renew' or 'release'  2 token  3 host
-- Reply {OK}                     it is ours again, or free
--       {BUSY, 0, 0, '', host}   renewing: it lapsed and another took it
local token, host = ARGV[2], ARGV[3]
if ARGV[1] == 'release' then
  release(KEYS[1], token)
  return {'OK'}
end
local held = call('GET', KEYS[1])
if held and held:sub(1, #token + 1) ~= token .. ' ' then
  return {'BUSY', 0, 0, '', held:match(' (.*)$') or ''}
end
call('SET', KEYS[1], token .. ' ' .. host, 'PX', LEASE_MS)
return {'OK'}
