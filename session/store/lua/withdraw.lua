-- Takes an own mark back: the token is unspent. With no mark it gives the lease
-- back.
local version, attempt = ARGV[4], ARGV[5]
local now = clock()
local record, status, found = load()
if not record then return {status, now, found or ''} end
if slice(record, AT.attempt, 16) == attempt then return {'ok', now, record} end
if slice(record, AT.version, 8) ~= version then return {'version', now, record} end
if slice(record, AT.sending, 16) == attempt then
  record = raise(unlease(record))
  record = put(record, AT.sending, NONE)
  record = put(record, AT.attempt, attempt)
elseif slice(record, AT.lease, 16) == attempt then
  record = unlease(record)
else
  return {'busy', now, record}
end
save(record)
changed(record)
return {'ok', now, record}
