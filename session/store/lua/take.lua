-- Takes one attempt out of a bucket that fills evenly (GCRA). KEYS[1] holds when
-- the bucket will be full again. ARGV: clock offset, attempts per minute.
-- Answers whether there was one, and in how many ms there will be the next.
local MINUTE = 60000
local t = redis.call('TIME')
local now = tonumber(t[1]) * 1000 + math.floor(tonumber(t[2]) / 1000) + tonumber(ARGV[1])
local each = MINUTE / tonumber(ARGV[2])
local full = math.max(tonumber(redis.call('GET', KEYS[1]) or now), now) + each
local wait = full - MINUTE - now
if wait > 0 then return {0, math.ceil(wait)} end
redis.call('SET', KEYS[1], string.format('%d', math.ceil(full)), 'PX', string.format('%d', math.ceil(full - now)))
return {1, 0}
