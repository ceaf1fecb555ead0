-- Gives the probe back: nothing was learnt. The next to ask makes it, alone. ARGV:
-- clock offset.
local t = redis.call('TIME')
local now = tonumber(t[1]) * 1000 + math.floor(tonumber(t[2]) / 1000) + tonumber(ARGV[1])
if redis.call('HDEL', KEYS[1], 'probing') == 1 then redis.call('HSET', KEYS[1], 'until', string.format('%d', now)) end
return 1
