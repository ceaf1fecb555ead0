-- Takes the lease of a refresh, or renews it. The lease only tells others whom
-- to wait for; the latch is `sending`.
local version, attempt, ttl = ARGV[4], ARGV[5], tonumber(ARGV[6])
local now = clock()
local record, status, found = load(version)
if not record then return {status, now, found or ''} end
if slice(record, AT.lease, 16) ~= attempt then
  if leased(record, now) then return {'busy', now, record} end
  if slice(record, AT.sending, 16) ~= NONE then return {'sending', now, record} end
end
record = put(record, AT.lease_until, bytes(now + ttl, 8) .. attempt)
record = put(record, AT.looked, bytes(0, 8))
save(record)
return {'ok', now, record, read(KEYS[2])}
