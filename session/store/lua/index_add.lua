-- Adds a session to an index. KEYS[1]: a sorted set, scored by when a session is
-- over at the latest. ARGV: clock offset, sid, that time, TTL beyond it in ms.
-- What is over goes; the index lives as long as its longest session.
local t = redis.call('TIME')
local now = tonumber(t[1]) * 1000 + math.floor(tonumber(t[2]) / 1000) + tonumber(ARGV[1])
redis.call('ZREMRANGEBYSCORE', KEYS[1], '-inf', string.format('%d', now))
redis.call('ZADD', KEYS[1], ARGV[3], ARGV[2])
local life = tonumber(ARGV[3]) - now + tonumber(ARGV[4])
if redis.call('PTTL', KEYS[1]) < life then redis.call('PEXPIRE', KEYS[1], string.format('%d', life)) end
return 1
