-- Asks whether a call to the provider may go out now. KEYS[1] holds `failures`
-- and `until`; ARGV: clock offset, life of a probe in ms (0: only
-- asks whether it is closed), TTL, silence that closes it. Returns the ms to
-- wait, or 0; and whether this call is the one probe.
local t = redis.call('TIME')
local now = tonumber(t[1]) * 1000 + math.floor(tonumber(t[2]) / 1000) + tonumber(ARGV[1])
local till = tonumber(redis.call('HGET', KEYS[1], 'until') or '0')
-- A while without failures or probes closes it: looks wait for that, or for a
-- probe that succeeds.
if till == 0 or now - till >= tonumber(ARGV[4]) then return {0, 0} end
if now < till then
  -- A probe may take long but is likely to be over soon.
  if redis.call('HGET', KEYS[1], 'probing') then till = math.min(till, now + 1000) end
  return {till - now, 0}
end
if ARGV[2] == '0' then return {1000, 0} end
redis.call('HSET', KEYS[1], 'until', string.format('%d', now + tonumber(ARGV[2])), 'probing', '1')
redis.call('PEXPIRE', KEYS[1], ARGV[3])
return {0, 1}
