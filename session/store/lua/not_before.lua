-- Sets when an app's sessions have to have begun, and never to an earlier time.
-- ARGV: clock offset, channel, app, time in ms (0: now), TTL. Returns the time
-- that was asked for.
local t = redis.call('TIME')
local at = tonumber(ARGV[4])
-- Of a session that began in this very millisecond nobody can tell that it began
-- after its end.
if at == 0 then at = tonumber(t[1]) * 1000 + math.floor(tonumber(t[2]) / 1000) + tonumber(ARGV[1]) + 1 end
if at > tonumber(redis.call('HGET', KEYS[1], ARGV[3]) or '0') then
  redis.call('HSET', KEYS[1], ARGV[3], string.format('%d', at))
end
if redis.call('PTTL', KEYS[1]) < tonumber(ARGV[5]) then redis.call('PEXPIRE', KEYS[1], ARGV[5]) end
redis.call('PUBLISH', ARGV[2], 'not_before')
return at
