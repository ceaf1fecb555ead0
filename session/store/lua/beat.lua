-- A write and a publish that the replica has to hear back. KEYS[1] is the
-- replica's own beat; ARGV: life in ms, channel, replica, count.
redis.call('SET', KEYS[1], ARGV[4], 'PX', ARGV[1])
redis.call('PUBLISH', ARGV[2], 'beat ' .. ARGV[3] .. ' ' .. ARGV[4])
local t = redis.call('TIME')
return {tonumber(t[1]), tonumber(t[2])}
