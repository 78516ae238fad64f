"""Caddy: a question before each request, and the address in a variable that no client can set."""

from __future__ import annotations

from string import Template
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from stateful_route.web.proxies.plan import Plan

_TEXT = """\
# Caddy in front of the service '$service': it asks `stateful-route decide` where a request goes
# Printed by `stateful-route proxy-config caddy`. Tried with Caddy 2.11; it needs no plugin.
#
# Beside it runs, for each Caddy or for all of them:
#   $command
# The pods run StickyMiddleware with an http_address. Requests are carried by Caddy alone; one that a pod gets by
# mistake (its uid has just moved) that pod sends on.

{
	admin off
	auto_https off # this site has no name; with one Caddy gets its certificate by itself
	servers {
		trusted_proxies_strict
	}
}

# Asks, and keeps what is answered; a refusal goes to the client as it is.
(stateful_question) {
	reverse_proxy $decide {
		method GET
		rewrite /
		header_up X-Forwarded-Method {http.request.method}
		header_up X-Forwarded-Uri {http.request.orig_uri}
		header_up X-Pod-Failed "{vars.stateful_pod}" # the second time: where it was not reached
		# With them the question of a WebSocket would be one itself.
		header_up -Connection
		header_up -Upgrade
		transport http {
			dial_timeout 2s
			response_header_timeout ${timeout}s # it holds a question while a uid is taken over
			keepalive_idle_conns_per_host 64
		}
		@decided status 2xx
		handle_response @decided {
			vars {
				stateful_pod {rp.header.X-Pod-Address}
				stateful_epoch {rp.header.X-Link-Epoch}
				stateful_cookie {rp.header.X-Pod-Cookie}
				stateful_set_cookie {rp.header.Set-Cookie}
			}
		}
	}
}

# Takes the request to the pod.
(stateful_carry) {
	# A client that was given a cookie just now has not sent it: the pod gets it from us.
	@given not vars {vars.stateful_cookie} ""
	request_header @given Cookie {vars.stateful_cookie}
	header @given +Set-Cookie {vars.stateful_set_cookie}
	reverse_proxy {vars.stateful_pod} {
		header_up X-Link-Epoch {vars.stateful_epoch} # the fencing token of the uid, for apps in any language
		# What only we may say. A client's own headers of these names end here.
		header_up -X-Pod-Address
		header_up -X-Pod-Index
		header_up -X-Pod-Cookie
		header_up -X-Sticky-Replayed
		transport http {
			dial_timeout 2s
		}
	}
}

http://:$port {
$bind
	route {
		import stateful_question
		import stateful_carry
	}

	# Ask again, once, if nothing of the request was sent, or if it may be sent twice and has no body: by now it is
	# known that the pod is gone, and the answer is held until another one has the uid.
	handle_errors 502 504 {
		@again {
			not vars {vars.stateful_pod} ""
			expression `{err.message}.startsWith("dial ") || {method} in ["GET", "HEAD", "OPTIONS", "TRACE", "DELETE"]`
		}
		handle @again {
			route {
				import stateful_question
				import stateful_carry
			}
		}
$fallback		handle {
			respond {err.status_code}
		}
	}
}
"""
_FALLBACK = """\
		# Nobody decides: any pod sends it on to the owner.
		@undecided vars {vars.stateful_pod} ""
		handle @undecided {
			reverse_proxy $pods {
				header_up -X-Sticky-Replayed
				header_up -X-Link-Epoch
			}
		}
"""


def decide(plan: Plan) -> str:
    """Return the Caddyfile with which Caddy asks first."""
    values = {
        "service": plan.service,
        "command": plan.command("caddy"),
        "decide": plan.decide,
        "timeout": str(plan.timeout),
        "port": str(plan.listen_port),
        "bind": f"\tbind {plan.listen_host}\n" if plan.listen_host else "",
        "fallback": Template(_FALLBACK).substitute(pods=" ".join(plan.pods)) if plan.pods else "",
    }
    return Template(_TEXT).substitute(values)
