"""A visitor with a cookie jar, who puts things into the cart and looks whether they are all there."""

from __future__ import annotations

import secrets
from typing import TYPE_CHECKING

import anyio

from examples.harness import Example, ask
from examples.harness.http import client

if TYPE_CHECKING:
    import httpx

    from examples.harness import Session

_CLICK = 0.1  # seconds
_LOOKS = 3  # for each thing that is put in
_MOST = 20  # things; then the cart is full and begins anew with another visitor


async def visit(url: str, session: Session) -> None:
    """Shop until cancelled."""
    while True:
        async with client(url) as http:
            await _shop(http, session)


async def _shop(http: httpx.AsyncClient, session: Session) -> None:
    bought: set[str] = set()  # what the shop said is in the cart
    for number in range(_MOST):
        item = f"thing-{number}"
        answer = await ask(http, session, "PUT", f"/cart/{item}")
        if answer is not None:
            bought.add(item)
        for _ in range(_LOOKS):
            await anyio.sleep(_CLICK)
            answer = await ask(http, session, "GET", "/cart")
            if answer is None:
                continue
            there = answer.json()
            session.looked(kept=bought <= set(there["items"]), holder=there["pid"])
            bought &= set(there["items"])


EXAMPLES = (
    Example(
        name="shopping cart",
        folder="shopping_cart",
        title="FastAPI, a module-level dict, uvicorn --workers 4 without a balancer",
        user=visit,
        workers=4,
        needs=("fastapi",),
        environment={"CART_SECRET": secrets.token_hex(16)},
    ),
)
