"""A shopping cart in a module-level dict: right in one process, and with ``StickyMiddleware`` in any number of them.

STICKY=1 STATEFUL_ROUTE_URL=redis://127.0.0.1 CART_SECRET=$(openssl rand -hex 16) uvicorn app:app --workers 4
"""

from __future__ import annotations

import json
import os
import sqlite3
import uuid
from pathlib import Path
from typing import Annotated, Any

from fastapi import Depends, FastAPI, Request, Response

STICKY = os.environ.get("STICKY", "1") == "1"  # "0": without, to see what is lost
DATABASE = Path(os.environ.get("STATE", "."), "carts.db")

app = FastAPI()
carts: dict[str, list[str]] = {}  # the state
held_by: dict[str, Any] = {}  # the right to a cart under which this process put it into memory


def database() -> sqlite3.Connection:
    """Return a connection to the table of the carts that are in no process's memory."""
    connection = sqlite3.connect(DATABASE, timeout=5, isolation_level=None)
    connection.execute("CREATE TABLE IF NOT EXISTS carts (id TEXT PRIMARY KEY, items TEXT)")
    return connection


async def save(uid: str) -> None:
    """Save a cart; called before it leaves this process, and not at each click."""
    held_by.pop(uid, None)
    if (items := carts.pop(uid, None)) is not None:
        database().execute("INSERT OR REPLACE INTO carts VALUES (?, ?)", (uid, json.dumps(items)))


def load(uid: str) -> list[str]:
    """Return a cart that another process saved; an empty one if there is none."""
    row = database().execute("SELECT items FROM carts WHERE id = ?", (uid,)).fetchone()
    return list(json.loads(row[0])) if row else []


if STICKY:
    from stateful_route.web import SignedCookie, StickyMiddleware

    cookie = SignedCookie("cart", secrets=[os.environ["CART_SECRET"]], secure=False)  # plain http here
    app.add_middleware(StickyMiddleware, service="cart", uid=cookie, hand_off=save)


async def cart_of(request: Request, response: Response) -> list[str]:
    """Return the cart of a visitor, from memory; the first time after it came here, from the database."""
    if not STICKY:
        uid = request.cookies.get("cart") or uuid.uuid4().hex
        response.set_cookie("cart", uid)
        return carts.setdefault(uid, [])
    uid, right, earlier = (
        request.state.sticky.uid,
        request.state.sticky.ownership,
        held_by.get(request.state.sticky.uid),
    )
    # Another process may have had it since it was put into memory: then what is here is old.
    ours = earlier is not None and (right.epoch == earlier.epoch or right.resumes(earlier))
    if uid not in carts or not ours:
        carts[uid] = load(uid)
    held_by[uid] = right
    return carts[uid]


Cart = Annotated[list[str], Depends(cart_of)]


@app.get("/cart")
async def show(cart: Cart) -> dict[str, Any]:
    """Show the cart, and who has it."""
    return {"items": cart, "pid": os.getpid()}


@app.put("/cart/{item}")
async def put_in(item: str, cart: Cart) -> dict[str, Any]:
    """Put something into the cart; to do it twice changes nothing, so who gets no answer may ask again."""
    if item not in cart:
        cart.append(item)
    return {"items": cart, "pid": os.getpid()}
