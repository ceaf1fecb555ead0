-- The local half of a split session has been shown: what led to it is of no use
-- any more.
local version = ARGV[4]
local now = clock()
local record, status, found = load(version)
if not record then return {status, now, found or ''} end
redis.call('SETRANGE', KEYS[1], AT['local'], '\1')
return {'ok', now, put(record, AT['local'], '\1')}
