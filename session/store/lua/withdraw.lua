-- Takes an own mark and lease back: the token is unspent. It raises the version
-- even without a mark, so that late copies of the attempt's claim and sending do
-- nothing.
local version, attempt = ARGV[4], ARGV[5]
local now = clock()
local record, status, found = load()
if not record then return {status, now, found or ''} end
if slice(record, AT.attempt, 16) == attempt then return {'ok', now, record} end
if slice(record, AT.version, 8) ~= version then return {'version', now, record} end
local sending = slice(record, AT.sending, 16)
if sending ~= attempt and (sending ~= NONE or slice(record, AT.lease, 16) ~= attempt) then return {'busy', now, record} end
record = raise(unlease(record))
record = put(record, AT.sending, NONE)
record = put(record, AT.attempt, attempt)
save(record)
changed(record)
return {'ok', now, record}
