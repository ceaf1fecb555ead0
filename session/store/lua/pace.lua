-- Books the next free place for a call to the provider: at most so many a
-- second, of all replicas together, and a second's worth at once. KEYS[1] is when
-- the place after the last one booked is free, in ms. ARGV: clock offset, calls a
-- second, the longest wait that the caller takes. Returns the ms to wait, and
-- whether the place was booked.
local t = redis.call('TIME')
local now = tonumber(t[1]) * 1000 + tonumber(t[2]) / 1000 + tonumber(ARGV[1])
local step = 1000 / tonumber(ARGV[2])
local free = math.max(tonumber(redis.call('GET', KEYS[1]) or '0'), now - 1000)
local wait = math.max(0, math.ceil(free + step - now))
if wait > tonumber(ARGV[3]) then return {wait, 0} end
redis.call('SET', KEYS[1], string.format('%.3f', free + step), 'PX', 60000)
return {wait, 1}
