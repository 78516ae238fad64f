-- Asks `stateful-route decide` where a request goes, for HAProxy in front of the service '{{service}}'.
-- Printed by `stateful-route proxy-config haproxy-lua`; the configuration that loads it, by `proxy-config haproxy`.

local QUESTION = "http://{{decide}}/"
local TIMEOUT = {{timeout}}000 -- milliseconds: it holds a question while a uid is taken over
-- Of the hop, and not of the request: with them the question of a WebSocket would be one itself.
local OF_HOP = { connection = true, upgrade = true, ["content-length"] = true, ["transfer-encoding"] = true,
                 expect = true, te = true, trailer = true, ["keep-alive"] = true }

local function refuse(txn, status, retry, why)
    local reply = txn:reply({ status = status, body = why or "there is no process for it now\n" })
    reply:add_header("content-type", "text/plain")
    if retry then reply:add_header("retry-after", retry) end
    txn:done(reply)
end

local function first(headers, name)
    local values = headers[name]
    return values and values[0]
end

core.register_action("stateful_route", { "http-req" }, function(txn)
    local headers = {}
    for name, values in pairs(txn.http:req_get_headers()) do
        if not OF_HOP[name] then
            headers[name] = {}
            for number, value in pairs(values) do headers[name][number + 1] = value end
        end
    end
    headers["x-original-method"] = { txn.sf:method() }
    headers["x-original-uri"] = { txn.sf:pathq() }

    local answer = core.httpclient():get({ url = QUESTION, headers = headers, timeout = TIMEOUT })
    local said = answer and answer.headers or {}
    -- HAProxy says 503 of its own if nobody is there; who decides says when to come again.
    local decided = answer and answer.status > 0 and answer.status ~= 502 and answer.status ~= 504
    if not decided or (answer.status == 503 and not said["retry-after"]) then
@if pods
        return -- the configuration sends it to any pod
@if alone
        return refuse(txn, 503, "1")
@end
    end
    if answer.status >= 300 then return refuse(txn, answer.status, first(said, "retry-after"), answer.body) end

    local host, port = string.match(first(said, "x-pod-address") or "", "^(.+):(%d+)$")
    if not host then return refuse(txn, 503, "1") end
    txn:set_var("txn.stateful_host", host)
    txn:set_var("txn.stateful_port", port)
    txn:set_var("txn.stateful_epoch", first(said, "x-link-epoch"))
    if said["set-cookie"] then
        txn:set_var("txn.stateful_set_cookie", first(said, "set-cookie"))
        txn:set_var("txn.stateful_cookie", first(said, "x-pod-cookie"))
    end
end, 0)
