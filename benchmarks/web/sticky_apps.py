"""The applications with the middleware around them, and the gateway."""

from __future__ import annotations

import os

from benchmarks.web.apps import bare
from benchmarks.web.counting import HEADER, PATH, Counting
from benchmarks.web.processes import ADDRESS
from stateful_route.web import Header, Path, Query, StickyGateway, StickyMiddleware

SERVICE = "hop"
REPLAY = "hop-replay"
UIDS = "path:/rooms/{uid},query:uid"
"""Where the uids are, as it is spelled on a command line."""
_LINGER = 1.0

_uids = [Path("/rooms/{uid}"), Query("uid")]
_address = os.environ.get(ADDRESS, "").removeprefix("http://") or None
sticky = StickyMiddleware(bare, service=SERVICE, uid=_uids, http_address=_address)
replaying = StickyMiddleware(bare, service=REPLAY, uid=_uids, http_address=_address, misroute="accel")
gateway = StickyGateway(service=SERVICE, uid=_uids)

# As a team would write it: the three lines, and what the mode is about.
_session = [Path(PATH + "{uid}"), Header(HEADER)]
lingering = StickyMiddleware(Counting(saves=False), service="count", uid=_session, drain="linger", linger_idle=_LINGER)

_saving = Counting(saves=True)
handing_off = StickyMiddleware(_saving, service="count", uid=_session, hand_off=_saving.save)

_carrying = Counting(saves=False)
travelling = StickyMiddleware(_carrying, service="count", uid=_session, hand_off=_carrying.pack, adopt=_carrying.adopt)
