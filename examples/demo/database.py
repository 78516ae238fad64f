"""The database of the chats: it takes a write only from who has the latest epoch that it was shown.

A pod can be wrong about what it owns: it was frozen, cut off, or its write was in flight for long, while another pod
took the user over. Nothing that the pod looks at before it writes can close that gap; the epoch of its link can, as it
rises with every change of owner. So each access says its epoch, the database keeps the highest for each user, and
refuses a lower one. With SQL that is one condition: ``UPDATE chats SET ... WHERE uid = ? AND epoch <= ?``.
"""

from __future__ import annotations

from http import HTTPStatus
from typing import TYPE_CHECKING, TypedDict

import attrs
from starlette.applications import Starlette
from starlette.responses import JSONResponse
from starlette.routing import Route

from examples.demo.serving import listen, parser, serve

if TYPE_CHECKING:
    from collections.abc import Sequence

    import httpx
    from starlette.requests import Request


class Message(TypedDict):
    """A message of a user; the id is the sender's, so that a message that is sent twice is known by it."""

    id: str
    text: str


@attrs.define
class Row:
    """What the database has of a user."""

    epoch: int = 0
    messages: list[Message] = attrs.field(factory=list)


class Database:
    """The rows, in memory: it is the pods that are killed in this demo."""

    def __init__(self) -> None:
        """Hold nothing yet."""
        self.rows: dict[str, Row] = {}
        self.refused = 0
        self.application = Starlette(
            routes=[
                Route("/chats", self.sizes, methods=["GET"]),
                Route("/chats/{uid}", self.open, methods=["POST"]),
                Route("/chats/{uid}", self.save, methods=["PUT"]),
            ]
        )

    async def open(self, request: Request) -> JSONResponse:
        """Hand out a chat to its new owner. From here on the owner before cannot write: it would not be seen."""
        said = await request.json()
        row = self.fenced(request.path_params["uid"], said["epoch"])
        return _refusal() if row is None else JSONResponse(row.messages)

    async def save(self, request: Request) -> JSONResponse:
        """Overwrite a chat."""
        said = await request.json()
        row = self.fenced(request.path_params["uid"], said["epoch"])
        if row is None:
            return _refusal()
        row.messages = said["messages"]
        return JSONResponse({"count": len(row.messages)})

    async def sizes(self, _: Request) -> JSONResponse:
        """Say how many messages each user has, and how many accesses were refused."""
        counts = {uid: len(row.messages) for uid, row in self.rows.items()}
        return JSONResponse({"counts": counts, "refused": self.refused})

    def fenced(self, uid: str, epoch: int) -> Row | None:
        """Return the row of a user if no later epoch was seen; ``None`` if one was."""
        row = self.rows.setdefault(uid, Row())
        if epoch < row.epoch:
            self.refused += 1
            return None
        row.epoch = epoch
        return row


class StaleEpochError(Exception):
    """The database was shown a later epoch of that user: another pod owns it."""


@attrs.frozen
class Sizes:
    """How many messages the database has of each user, and how many accesses with a stale epoch it refused."""

    counts: dict[str, int]
    refused: int


class DatabaseClient:
    """The database as the pods use it."""

    def __init__(self, http: httpx.AsyncClient, url: str) -> None:
        """Use a database at that URL, over ``http``."""
        self._http = http
        self._url = f"{url}/chats"

    async def open(self, uid: str, epoch: int) -> list[Message]:
        """Return the messages of a user, and shut out all owners of an earlier epoch.

        Raises:
            StaleEpochError: if a later epoch was there before.

        """
        messages: list[Message] = await self._call("POST", uid, {"epoch": epoch})
        return messages

    async def save(self, uid: str, epoch: int, messages: Sequence[Message]) -> None:
        """Save the messages of a user.

        Raises:
            StaleEpochError: if a later epoch was there before; nothing is changed.

        """
        await self._call("PUT", uid, {"epoch": epoch, "messages": messages})

    async def sizes(self) -> Sizes:
        """Return how much there is."""
        answer = (await self._http.get(self._url)).raise_for_status()
        return Sizes(**answer.json())

    async def _call(self, method: str, uid: str, said: object) -> list[Message]:
        answer = await self._http.request(method, f"{self._url}/{uid}", json=said)
        if answer.status_code == HTTPStatus.CONFLICT:
            raise StaleEpochError(uid)
        messages: list[Message] = answer.raise_for_status().json()
        return messages


def _refusal() -> JSONResponse:
    return JSONResponse({"error": "a later epoch was here"}, HTTPStatus.CONFLICT)


def main() -> None:
    """Run the database until its stdin ends."""
    parser("examples.demo.database", __doc__).parse_args()
    listener, _ = listen()
    serve(Database().application, listener)


if __name__ == "__main__":
    main()
