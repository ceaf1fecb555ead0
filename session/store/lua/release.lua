-- Gives the lease back and leaves the mark: the token's fate is unknown.
local version, attempt = ARGV[4], ARGV[5]
local now = clock()
local record, status, found = load(version)
if not record then return {status, now, found or ''} end
if slice(record, AT.lease, 16) ~= attempt then return {'busy', now, record} end
record = unlease(record)
save(record)
changed(record)
return {'ok', now, record}
