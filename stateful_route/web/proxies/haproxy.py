"""HAProxy: a few lines of Lua ask, and a server without an address goes to the one that is set."""

from __future__ import annotations

from string import Template
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from stateful_route.web.proxies.plan import Plan

_FILE = "/etc/haproxy/stateful_route.lua"
# In a Template $$ is a dollar sign; HAProxy's own begin with a percent sign.
_TEXT = """\
# HAProxy in front of the service '$service': it asks `stateful-route decide` where a request goes
# Printed by `stateful-route proxy-config haproxy`. Tried with HAProxy 3.0; it needs Lua, as Debian's has it.
#
# The Lua that asks is printed by `stateful-route proxy-config haproxy-lua` with the same options, into
# $file
# Beside it runs, for each HAProxy or for all of them:
#   $command
# The pods run StickyMiddleware with an http_address, which is an IPv4 address and a port. Requests are carried by
# HAProxy alone; one that a pod gets by mistake (its uid has just moved) that pod sends on. HAProxy does not ask again
# for a request whose pod dies meanwhile: that one is a 502. Those that come after it are held.

global
    maxconn 4000
    lua-load $file

defaults
    mode http
    timeout connect 2s
    timeout client 1h       # of WebSockets and event streams that are silent
    timeout server 1h
    timeout http-request 10s
    retries 1

frontend web
    bind $bind
    # What only we may say. A client's own headers of these names end here.
    http-request del-header X-Pod- -m beg
    http-request del-header X-Sticky-Replayed
    http-request del-header X-Original- -m beg
    http-request del-header X-Link-Epoch
    http-request set-header X-Forwarded-Proto %[ssl_fc,iif(https,http)]
    option forwardfor

    # Answers by itself if there is no pod to go to.
    http-request lua.stateful_route

    # The fencing token of the uid, for apps in any language; the cookie of a client that was given one just now.
    http-request set-header X-Link-Epoch %[var(txn.stateful_epoch)] if { var(txn.stateful_epoch) -m found }
    http-request set-header Cookie %[var(txn.stateful_cookie)] if { var(txn.stateful_cookie) -m found }
    acl is_given_cookie var(txn.stateful_set_cookie) -m found
    http-after-response add-header Set-Cookie %[var(txn.stateful_set_cookie)] if is_given_cookie
$fallback    default_backend owner

backend owner
    http-request set-dst var(txn.stateful_host)
    http-request set-dst-port var(txn.stateful_port)
    http-reuse never        # the address is another one for each request
    server pod 0.0.0.0:0
$pods"""
_FALLBACK = """\
    # Nobody decides: any pod sends it on to the owner.
    use_backend any if !{ var(txn.stateful_host) -m found }
"""
_PODS = """
backend any
    balance roundrobin
    option redispatch
$servers
"""
_LUA = """\
-- Asks `stateful-route decide` where a request goes, for HAProxy in front of the service '$service'.
-- Printed by `stateful-route proxy-config haproxy-lua`; the configuration that loads it, by `proxy-config haproxy`.

local QUESTION = "http://$decide/"
local TIMEOUT = ${timeout}000 -- milliseconds: it holds a question while a uid is taken over
-- Of the hop, and not of the request: with them the question of a WebSocket would be one itself.
local OF_HOP = { connection = true, upgrade = true, ["content-length"] = true, ["transfer-encoding"] = true,
                 expect = true, te = true, trailer = true, ["keep-alive"] = true }

local function refuse(txn, status, retry, why)
    local reply = txn:reply({ status = status, body = why or "there is no process for it now\\n" })
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
$undecided
    end
    if answer.status >= 300 then return refuse(txn, answer.status, first(said, "retry-after"), answer.body) end

    local host, port = string.match(first(said, "x-pod-address") or "", "^(.+):(%d+)$$")
    if not host then return refuse(txn, 503, "1") end
    txn:set_var("txn.stateful_host", host)
    txn:set_var("txn.stateful_port", port)
    txn:set_var("txn.stateful_epoch", first(said, "x-link-epoch"))
    if said["set-cookie"] then
        txn:set_var("txn.stateful_set_cookie", first(said, "set-cookie"))
        txn:set_var("txn.stateful_cookie", first(said, "x-pod-cookie"))
    end
end, 0)
"""
_ANY = "        return -- the configuration sends it to any pod"
_NONE = '        return refuse(txn, 503, "1")'


def decide(plan: Plan) -> str:
    """Return the configuration with which HAProxy asks first."""
    servers = "\n".join(f"    server pod{number} {pod} check" for number, pod in enumerate(plan.pods))
    values = {
        "service": plan.service,
        "command": plan.command("haproxy"),
        "file": _FILE,
        "bind": plan.listen if plan.listen_host else f":{plan.listen_port}",
        "fallback": _FALLBACK if plan.pods else "",
        "pods": Template(_PODS).substitute(servers=servers) if plan.pods else "",
    }
    return Template(_TEXT).substitute(values)


def lua(plan: Plan) -> str:
    """Return the Lua that this configuration loads."""
    values = {
        "service": plan.service,
        "decide": plan.decide,
        "timeout": str(plan.timeout),
        "undecided": _ANY if plan.pods else _NONE,
    }
    return Template(_LUA).substitute(values)
