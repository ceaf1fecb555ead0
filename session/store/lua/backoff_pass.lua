-- Gives the probe back: nothing was learnt.
if redis.call('HDEL', KEYS[1], 'probing') == 1 then redis.call('HSET', KEYS[1], 'until', '1') end
return 1
