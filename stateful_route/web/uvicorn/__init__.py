"""What is made for uvicorn: a protocol with a shortcut, and what closes its ports in time.

``uvicorn --http stateful_route.web.uvicorn:StickyProtocol app:app``
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from stateful_route.web.uvicorn.protocol import StickyProtocol

__all__ = ["StickyProtocol"]


def __getattr__(name: str) -> Any:
    """Import the protocol when it is asked for: it needs the extra ``gateway``, other modules here do not."""
    if name == "StickyProtocol":
        from stateful_route.web.uvicorn.protocol import StickyProtocol  # noqa: PLC0415

        return StickyProtocol
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
