-- Random requests for wrk: `wrk … -s load.lua URL -- KIND USERS SEED`, KIND one of the functions of `make` below.

local thread_count = 0
local path = "/api/v1/users/"
local json = { ["Content-Type"] = "application/json" }
local make = {}
local users, prepared

function setup(thread)
  thread_count = thread_count + 1
  thread:set("thread_number", thread_count)
end

function init(args)
  users = tonumber(args[2])
  math.randomseed(tonumber(args[3]) * 1000 + thread_number)
  prepared = {}
  if args[1] == "lookup" then
    -- Made beforehand: to write a thousand numbers takes wrk as long as it takes to answer.
    for place = 1, 64 do
      local ids = {}
      for number = 1, 1000 do ids[number] = string.format("%d", math.random(1, users)) end
      prepared[place] = wrk.format("POST", "/api/v1/lookup", json, '{"user_ids":[' .. table.concat(ids, ",") .. "]}")
    end
  end
  request = make[args[1]]
end

function make.read()
  return wrk.format("GET", path .. string.format("%d", math.random(1, users)) .. "/segments")
end

function make.lookup()
  return prepared[math.random(1, #prepared)]
end

function make.change()
  local first = math.random(0, 499)
  local body = string.format(
    '{"add":["campaign-%d","campaign-%d"],"remove":["campaign-%d"]}',
    1000 + first, 1000 + (first + 167) % 500, 1000 + (first + 333) % 500
  )
  return wrk.format("POST", path .. string.format("%d", math.random(1, users)) .. "/segments", json, body)
end

local flags = "/ofrep/v1/evaluate/flags"

local function context()
  return '{"context":{"targetingKey":"' .. string.format("%d", math.random(1, users)) .. '"}}'
end

function make.evaluate()
  return wrk.format("POST", flags .. "/campaign-" .. string.format("%d", math.random(1000, 1499)), json, context())
end

make["evaluate-all"] = function()
  return wrk.format("POST", flags, json, context())
end

-- Of other products (bench/others).

function make.unleash()
  local frontend = { ["Authorization"] = "*:development.for-the-bench-alone" }
  return wrk.format("GET", "/api/frontend?userId=" .. string.format("%d", math.random(1, users)), frontend)
end

function make.growthbook()
  local body = '{"attributes":{"id":"' .. string.format("%d", math.random(1, users)) .. '"}}'
  return wrk.format("POST", "/api/eval", json, body)
end

function done(summary, latency, requests)
  local errors = summary.errors
  io.write(string.format(
    'BENCH {"requests":%d,"seconds":%.6f,"failed":%d,"p50_ms":%.4f,"p99_ms":%.4f}\n',
    summary.requests, summary.duration / 1e6,
    errors.connect + errors.read + errors.write + errors.status + errors.timeout,
    latency:percentile(50) / 1000, latency:percentile(99) / 1000
  ))
end
