-- Looks at a mark that no live lease stands behind. The second look, a while
-- after the first, withdraws it, so that the token is presented once more; a
-- token that was presented as often as allowed is given up.
local version, pause, allowed = ARGV[4], tonumber(ARGV[5]), tonumber(ARGV[6])
local now = clock()
local record, status, found = load(version)
if not record then return {status, now, found or ''} end
if slice(record, AT.sending, 16) == NONE then return {'version', now, record} end
if leased(record, now) then return {'busy', now, record} end
local first, unknowns = num(record, AT.looked, 8), num(record, AT.unknowns, 1)
if first == 0 then
  record = put(record, AT.looked, bytes(now, 8))
  save(record)
  return {'looked', now, record}
end
if now - first < pause then return {'looked', now, record} end
if allowed == 0 then return {'spent', now, record} end
record = raise(unlease(record))
record = put(record, AT.sending, NONE)
record = put(record, AT.looked, bytes(0, 8))
record = put(record, AT.unknowns, string.char(math.min(unknowns + 1, 255)))
save(record)
changed(record)
return {'withdrawn', now, record}
