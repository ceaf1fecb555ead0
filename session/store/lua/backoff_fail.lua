-- Notes a failure: nobody calls before `until`. ARGV: clock offset, first delay,
-- longest delay, jitter (0 to 1), the provider's own wish in ms, TTL.
local t = redis.call('TIME')
local now = tonumber(t[1]) * 1000 + math.floor(tonumber(t[2]) / 1000) + tonumber(ARGV[1])
local longest = tonumber(ARGV[3])
local failures = redis.call('HINCRBY', KEYS[1], 'failures', 1)
local delay = math.min(longest, tonumber(ARGV[2]) * 2 ^ math.min(failures - 1, 16)) * (0.5 + tonumber(ARGV[4]) / 2)
delay = math.min(longest, math.max(delay, tonumber(ARGV[5])))
redis.call('HDEL', KEYS[1], 'probing')
redis.call('HSET', KEYS[1], 'until', string.format('%d', now + delay))
redis.call('PEXPIRE', KEYS[1], ARGV[6])
return math.floor(delay)
