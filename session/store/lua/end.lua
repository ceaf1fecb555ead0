-- Ends a session. It wins against any refresh: whose commit then finds no live
-- record. With a version and an attempt it ends only what that attempt still
-- holds.
local app, reason, flags, version, attempt = ARGV[4], tonumber(ARGV[5]), tonumber(ARGV[6]), ARGV[7], ARGV[8]
local locked_until = tonumber(ARGV[9])
local now = clock()
local record, status, found = load()
if found and status ~= 'format' and slice(found, AT.app, 8) ~= app then return {'none', now} end
if not record then return {status, now, found or ''} end
if version ~= '' and slice(record, AT.version, 8) ~= version then return {'version', now, record} end
if attempt ~= '' and slice(record, AT.sending, 16) ~= attempt then return {'version', now, record} end
return {'ok', now, finish(record, reason, flags, locked_until)}
