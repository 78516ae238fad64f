"""A gateway: it has each request served by the pod that holds the user."""

from __future__ import annotations

import attrs

from examples.demo.names import MESSAGES_PATH, SERVICE_NAME, TUNING
from examples.demo.serving import listen, parser, routed, serve
from stateful_route.web import Path, StickyGateway


def main() -> None:
    """Run one gateway until its stdin ends."""
    options = routed(parser("examples.demo.gateway", __doc__)).parse_args()
    listener, _ = listen()
    gateway = StickyGateway(
        service=SERVICE_NAME,
        uid=Path(MESSAGES_PATH),
        redis=options.redis_url,
        config=attrs.evolve(TUNING, namespace=options.namespace),
    )
    serve(gateway, listener)


if __name__ == "__main__":
    main()
