"""The applications with the middleware around them, and the gateway."""

from __future__ import annotations

from benchmarks.web.apps import bare
from benchmarks.web.counting import HEADER, PATH, Counting
from stateful_route.web import Header, Path, Query, StickyGateway, StickyMiddleware

SERVICE = "hop"
_LINGER = 1.0

_uids = [Path("/rooms/{uid}"), Query("uid")]
sticky = StickyMiddleware(bare, service=SERVICE, uid=_uids)
gateway = StickyGateway(service=SERVICE, uid=_uids)

# As a team would write it: the three lines, and what the mode is about.
_session = [Path(PATH + "{uid}"), Header(HEADER)]
lingering = StickyMiddleware(Counting(saves=False), service="count", uid=_session, drain="linger", linger_idle=_LINGER)

_saving = Counting(saves=True)
handing_off = StickyMiddleware(_saving, service="count", uid=_session, hand_off=_saving.save)
