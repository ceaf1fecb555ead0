-- Lifts the lock of a tombstone: its session stays dead.
local app = ARGV[4]
local now = clock()
local record, status, found = load()
if not found or status == 'format' or slice(found, AT.app, 8) ~= app then return {'none', now} end
if status ~= 'ended' then return {'version', now, found} end
redis.call('SETRANGE', KEYS[1], AT.flags, '\0')
return {'ok', now, put(found, AT.flags, '\0')}
