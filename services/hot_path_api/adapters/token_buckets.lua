-- Takes a token from each bucket, or from none when one of them is empty; the same sum as domain/limits.py.
--
-- KEYS: the buckets; each is the moment at which it will be full, in microseconds by this server's clock.
-- ARGV: for each bucket, the microseconds until a token flows in, and how many tokens there is room for.
-- Answers: 1 or 0 for admitted, the place of the worst bucket, its whole tokens left, the microseconds to wait.
local time = redis.call('TIME')
local now = time[1] * 1000000 + time[2]
local full_at, worst, worst_wait, worst_tokens = {}, 1, -1, 0
for place, key in ipairs(KEYS) do
  local interval, burst = tonumber(ARGV[2 * place - 1]), tonumber(ARGV[2 * place])
  local room = interval * burst
  local known = tonumber(redis.call('GET', key) or '0')
  -- A clock that was set back must not lock anybody out for long: what lies too far ahead counts as a full bucket.
  if known > now + 2 * room then
    known = now
  end
  full_at[place] = math.max(known, now) + interval
  local left = now + room - full_at[place]
  local tokens = left / interval + 0.000001
  local wait = tokens < 0 and -left or 0
  if wait > worst_wait or (wait == worst_wait and tokens < worst_tokens) then
    worst, worst_wait, worst_tokens = place, wait, tokens
  end
end
if worst_wait > 0 then
  return {0, worst, 0, math.ceil(worst_wait)}
end
for place, key in ipairs(KEYS) do
  redis.call('SET', key, string.format('%.0f', full_at[place]), 'PX', math.ceil((full_at[place] - now) / 1000) + 1)
end
return {1, worst, math.floor(worst_tokens), 0}
