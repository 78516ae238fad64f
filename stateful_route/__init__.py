"""Stateful routing over Redis: find the one process that holds the state of a uid.

The names are imported when one of them is first asked for (PEP 562): a program that only wants
``stateful_route.errors`` or ``stateful_route.web`` does not wait for the rest.
"""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from stateful_route._public import *  # noqa: F403 - these names, and no others
    from stateful_route._public import __all__ as __all__
else:

    def __getattr__(name: str) -> object:
        """Import all public names, ``__all__`` with them."""
        names = globals()
        if name == "__all__" or not name.startswith("_") or name == "__version__":
            from stateful_route import _public  # noqa: PLC0415 - the point of it

            names.update({each: getattr(_public, each) for each in (*_public.__all__, "__all__")})
        if name not in names:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        return names[name]

    def __dir__() -> list[str]:
        """Return the public names too."""
        return sorted({*globals(), *__getattr__("__all__")})
