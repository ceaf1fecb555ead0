-- The latch: set by one replica per version, before a refresh token's first
-- byte leaves. While it stands, only its own commit, its withdrawal or an end
-- touches ticket or box.
local version, attempt, ttl = ARGV[4], ARGV[5], tonumber(ARGV[6])
local now = clock()
local record, status, found = load(version)
if not record then return {status, now, found or ''} end
if slice(record, AT.lease, 16) ~= attempt then return {'busy', now, record} end
local sending = slice(record, AT.sending, 16)
if sending ~= NONE and sending ~= attempt then return {'sending', now, record} end
record = put(record, AT.lease_until, bytes(now + ttl, 8))
record = put(record, AT.sending, attempt)
save(record)
return {'ok', now, record}
