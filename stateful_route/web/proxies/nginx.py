"""nginx: ``auth_request`` asks where a request goes, ``X-Accel-Redirect`` has it repeat one at the owner."""

from __future__ import annotations

from string import Template
from typing import TYPE_CHECKING

from stateful_route.web.proxies.cache import cache_key

if TYPE_CHECKING:
    from stateful_route.web.proxies.plan import Plan

# In a Template $$ is a dollar sign of nginx's own.
_HEAD = """\
# nginx in front of the service '$service': $summary
# Printed by `stateful-route proxy-config nginx --mode $mode`. Tried with nginx 1.26; it needs $module.
#
$notes

worker_processes auto;
events { worker_connections 4096; }

http {
    client_max_body_size 100m;  # what a client may upload
    server_tokens off;

    # A WebSocket is passed on as one; all other requests leave the connection open.
    map $$http_upgrade $$stateful_connection { default upgrade; "" ""; }
"""
_REPEATABLE = """
    # Whether a request that failed may go to another pod: nothing of it was sent, or it may be sent twice.
    map "$$request_method:$$upstream_connect_time" $$stateful_repeatable {
        volatile;
        default 0;
        "~[: ]-$$" 1;
        "~^(GET|HEAD|OPTIONS|TRACE|PUT|DELETE):" 1;
    }
"""
_PODS = """
    # The pods, in turn. One that is not reached is left out for a while.
    upstream stateful_pods {
$servers
        keepalive 64;
    }

    # Each of them with connections that stay open: nginx keeps none to an address that is not written here, so a pod
    # that is not among them costs a connection for each request, and is reached all the same.
$each
    map $$stateful_pod $$stateful_upstream {
        volatile;
        default $$stateful_pod;
$names
    }
"""
_SERVER = """
    server {
        listen $listen;
        recursive_error_pages on;

        proxy_http_version 1.1;
        proxy_connect_timeout 2s;
        proxy_read_timeout 1h;      # of WebSockets and event streams that are silent
        proxy_buffering off;        # so that events are not held; with long answers for slow clients: on
        proxy_next_upstream off;

        proxy_set_header Host $$http_host;
        proxy_set_header Upgrade $$http_upgrade;
        proxy_set_header Connection $$stateful_connection;
        proxy_set_header X-Forwarded-For $$proxy_add_x_forwarded_for;
        proxy_set_header X-Forwarded-Proto $$scheme;
        # What only we may say. A client's own headers of these names end here.
        proxy_set_header X-Pod-Address "";
        proxy_set_header X-Pod-Index "";
        proxy_set_header X-Pod-Cookie "";
        proxy_set_header X-Original-URI "";
        proxy_set_header X-Original-Method "";
"""
_DECIDE_MAPS = """
    # A client that was given a cookie just now has not sent it: the pod gets it from us.
    map $$stateful_pod_cookie $$stateful_cookie { volatile; default $$stateful_pod_cookie; "" $$http_cookie; }

    upstream stateful_decide {
        server $decide;
        keepalive 64;
        keepalive_requests 1000000;
    }
"""
_DECIDE = """\
        proxy_set_header X-Sticky-Replayed "";
        proxy_set_header X-Link-Epoch $$stateful_epoch;  # the fencing token of the uid, for apps in any language
        proxy_set_header Cookie $$stateful_cookie;

        auth_request_set $$stateful_pod $$upstream_http_x_pod_address;
        auth_request_set $$stateful_epoch $$upstream_http_x_link_epoch;
        auth_request_set $$stateful_pod_cookie $$upstream_http_x_pod_cookie;
        auth_request_set $$stateful_set_cookie $$upstream_http_set_cookie;
        auth_request_set $$stateful_status $$upstream_status;
        auth_request_set $$stateful_retry $$upstream_http_retry_after;
        add_header Set-Cookie $$stateful_set_cookie always;
        # resolver 10.96.0.10;      # needed if the addresses of pods are names

        location / {
            auth_request /_stateful_route;
            proxy_pass http://$upstream;
            error_page 500 = @stateful_refused;   # there is no pod to go to (an app's own 500 passes)
            error_page 502 504 = @stateful_again; # the pod was not reached, or has died
        }

        # Ask again, once: by now it is known that the pod is gone, and the answer is held until another has the uid.
        location @stateful_again {
            if ($$stateful_repeatable = 0) { return 502; }
            set $$stateful_failed $$stateful_pod;
            auth_request /_stateful_again;
            proxy_pass http://$upstream;
            error_page 500 = @stateful_refused;
        }

        location @stateful_refused {
            add_header Retry-After $$stateful_retry always;
$refusals
        }
$fallback
$questions
    }
}
"""
_QUESTION = """
        location = $question {
            internal;
            auth_request off;
            proxy_pass http://stateful_decide;
            proxy_pass_request_body off;
            proxy_read_timeout ${timeout}s;           # it holds a question while a uid is taken over
            proxy_buffer_size 32k;            # the cookies of a client come back in it
            proxy_buffers 4 32k;
$keeping            proxy_set_header Host stateful-route;
            proxy_set_header Content-Length "";
            proxy_set_header Connection "";   # without it each question would open a connection
            proxy_set_header Upgrade "";
            proxy_set_header X-Original-Method $$request_method;
            proxy_set_header X-Original-URI $$request_uri;
            proxy_set_header X-Pod-Failed $failed;
        }
"""
_KEEPING = """\
            proxy_cache stateful_route;
            proxy_cache_key "$key";
            proxy_cache_valid 204 ${keep}s;
            proxy_cache_min_uses 2;           # what is asked once is not worth it
            proxy_buffering on;
"""
_KEPT = """
    # Answers are kept for a while, in memory. A request that is sent to a pod that has the uid no more is sent on by
    # that pod; one whose pod is gone is asked about again, without a look at what is kept.
    proxy_cache_path /dev/shm/stateful_route levels=1:2 keys_zone=stateful_route:10m max_size=100m inactive=10s
                     use_temp_path=off;
    open_file_cache max=10000 inactive=10s;
    map $$request_uri $$stateful_path { default ""; "~^(?<stateful_bare>[^?]*)" $$stateful_bare; }
    map $$request_uri $$stateful_args { default ""; "~^[^?]*[?](?<stateful_query>.*)" $$stateful_query; }
$maps"""
_FALLBACK = """
        # Nobody decides: any pod sends it on to the owner.
        location @stateful_any {
            proxy_pass http://stateful_pods;
            proxy_next_upstream error timeout;
        }
"""
_REPLAY = """\
        proxy_set_header X-Link-Epoch "";
        # A request that was sent to an owner already, and is misdirected again, is sent on by the pod where it is:
        # there is no endless ping-pong.
        proxy_set_header X-Sticky-Replayed $$stateful_replayed;
        set $$stateful_replayed "";

        location / {
            proxy_pass http://stateful_pods;
            proxy_next_upstream error timeout;  # a POST not, once it was sent
        }

        # What a pod names that is not the owner: X-Accel-Redirect: @owner. A named location keeps method and body.
        location @owner {
            set $$stateful_pod $$upstream_http_x_pod_address;  # copied: it is gone once proxy_pass begins
            set $$stateful_replayed 1;
            proxy_pass http://$$stateful_upstream;
            error_page 502 504 = @stateful_again;
        }

        # The owner was not reached, or has died: any pod holds the request until another has the uid.
        location @stateful_again {
            if ($$stateful_repeatable = 0) { return 502; }
            proxy_pass http://stateful_pods;
            proxy_next_upstream error timeout;
        }
        # resolver 10.96.0.10;      # needed if the addresses of pods are names
    }
}
"""
_DECIDE_NOTES = """\
# Beside it runs, for each nginx or for all of them:
#   $command
# The pods run StickyMiddleware with an http_address. Requests are carried by nginx alone; one that a pod gets by
# mistake (its uid has just moved) that pod sends on."""
_REPLAY_NOTES = """\
# The pods run StickyMiddleware(misroute="accel", http_address=...). nginx takes them in turn; one that is not the owner
# of the uid answers with its address only, and nginx repeats the request there. A body is read whole first
# (proxy_request_buffering stays on), or it could not be repeated."""


def decide(plan: Plan) -> str:
    """Return the configuration with which nginx asks first."""
    key, maps = cache_key(plan.uid) if plan.keep else ("", "")
    values = _values(plan) | {
        "summary": "it asks `stateful-route decide` where a request goes",
        "module": "ngx_http_auth_request_module",
        "notes": Template(_DECIDE_NOTES).substitute(command=plan.command("nginx")),
        "refusals": _refusals(plan),
        "fallback": _FALLBACK if plan.pods else "",
        "questions": _questions(plan, key),
        "maps": maps,
    }
    parts = [_HEAD, _REPEATABLE, _DECIDE_MAPS, *([_KEPT] if plan.keep else []), *([_PODS] if plan.pods else [])]
    parts += [_SERVER, _DECIDE]
    return "".join(Template(part).substitute(values) for part in parts)


def replay(plan: Plan) -> str:
    """Return the configuration with which nginx repeats a request at the owner."""
    values = _values(plan) | {
        "summary": "a pod that is not the owner has it repeat the request there",
        "module": "nothing else",
        "notes": _REPLAY_NOTES,
    }
    parts = [_HEAD, _REPEATABLE, _PODS, _SERVER, _REPLAY]
    return "".join(Template(part).substitute(values) for part in parts)


def _values(plan: Plan) -> dict[str, str]:
    return {
        "service": plan.service,
        "mode": plan.mode,
        "listen": plan.listen,
        "decide": plan.decide,
        "timeout": str(plan.timeout),
        "servers": "\n".join(f"        server {pod} max_fails=1 fail_timeout=1s;" for pod in plan.pods),
        "each": "\n".join(
            f"    upstream stateful_pod_{number} {{ server {pod} max_fails=0; keepalive 64; }}"
            for number, pod in enumerate(plan.pods)
        ),
        "names": "\n".join(f'        "{pod}" stateful_pod_{number};' for number, pod in enumerate(plan.pods)),
        "upstream": "$stateful_upstream" if plan.pods else "$stateful_pod",
    }


def _questions(plan: Plan, key: str) -> str:
    """Return the locations of the question: the first one, and the one after a pod was not reached."""
    question = Template(_QUESTION)
    keeping = Template(_KEEPING).substitute(key=key, keep=plan.keep) if plan.keep else ""
    first = {"question": "/_stateful_route", "keeping": keeping, "failed": '""'}
    again = {"question": "/_stateful_again", "keeping": "", "failed": "$stateful_failed"}
    return "".join(question.substitute(values, timeout=plan.timeout) for values in (first, again)).strip("\n")


def _refusals(plan: Plan) -> str:
    lines = [f"            if ($stateful_status = {status}) {{ return {status}; }}" for status in (400, *plan.statuses)]
    if plan.pods:
        lines.append('            if ($stateful_status ~ "^50[24]$") { return 504; }')
        lines.append("            error_page 504 = @stateful_any;")
    return "\n".join([*lines, "            return 503;"])
