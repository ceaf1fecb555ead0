-- A write and a publish that the replica has to hear back. KEYS[1] is the
-- replica's own beat; ARGV: life in ms, channel, replica, count. Answers the time,
-- and the name of this primary's history, where the account may ask for it.
redis.call('SET', KEYS[1], ARGV[4], 'PX', ARGV[1])
redis.call('PUBLISH', ARGV[2], 'beat ' .. ARGV[3] .. ' ' .. ARGV[4])
local info, history = redis.pcall('INFO', 'replication'), ''
if type(info) == 'string' then history = string.match(info, 'master_replid:(%x+)') or '' end
local t = redis.call('TIME')
return {tonumber(t[1]), tonumber(t[2]), history}
