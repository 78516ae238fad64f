"""A pod: it holds the chats of its users in memory, and saves each message before it answers."""

from __future__ import annotations

import asyncio
import contextlib
import secrets
from http import HTTPStatus
from typing import TYPE_CHECKING

import attrs
import httpx
from starlette.applications import Starlette
from starlette.responses import JSONResponse
from starlette.routing import Route

from stateful_route import (
    BaseConfig,
    NotOwnerError,
    ServerDriver,
    StatefulRoute,
    StatefulRouteError,
    StoreError,
    drain_on_signal,
)
from stateful_route.demo.database import DatabaseClient, StaleEpochError
from stateful_route.demo.names import MESSAGE_ID, MESSAGES_PATH, SERVICE_NAME, TUNING
from stateful_route.demo.serving import answer_error, http_client, listen, parser, routed, serve

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from starlette.requests import Request

    from stateful_route import Ownership
    from stateful_route.demo.database import Message


@attrs.define
class Chat:
    """The state of one user, and the right to serve it.

    Attributes:
        ownership: the right; its epoch goes with each access to the database.
        messages: what the user wrote; ``None`` until it was read from the database.
        turn: messages of one user are taken in one after the other.

    """

    ownership: Ownership
    messages: list[Message] | None = None
    turn: asyncio.Lock = attrs.field(factory=asyncio.Lock)

    @property
    def epoch(self) -> int:
        """The epoch of the right."""
        return self.ownership.epoch or 0


class Pod:
    """The chats of the users that are linked to this pod."""

    server: ServerDriver
    database: DatabaseClient

    def __init__(self, redis_url: str, database_url: str, config: BaseConfig) -> None:
        """Make the pod that ``config`` names; it works while its application runs."""
        self.redis_url = redis_url
        self.database_url = database_url
        self.config = config
        self.chats: dict[str, Chat] = {}
        self.application = Starlette(
            routes=[
                Route(MESSAGES_PATH, self.post, methods=["POST"]),
                Route(MESSAGES_PATH, self.get, methods=["GET"]),
            ],
            exception_handlers={
                NotOwnerError: self.misdirected,
                StatefulRouteError: answer_error,
                httpx.HTTPError: answer_error,
            },
            lifespan=self.lifespan,
        )

    @contextlib.asynccontextmanager
    async def lifespan(self, _: Starlette) -> AsyncIterator[None]:
        """Be a pod of the service, from start to end. At SIGTERM the users go first, then the server."""
        async with (
            http_client() as http,
            StatefulRoute.from_url(self.redis_url, self.config) as route,
            route.server(hand_off=self.hand_off) as self.server,
        ):
            self.database = DatabaseClient(http, self.database_url)
            with drain_on_signal(self.server):
                yield

    async def hand_off(self, uid: str) -> None:
        """Save the chat of a user who goes to another pod, when the message that is in flight is in.

        All of it is saved already, as each message is at once. A service that saves from time to time does it here.
        """
        chat = self.chats.get(uid)
        if chat is not None:
            async with chat.turn:
                if chat.messages is not None:
                    await self.database.save(uid, chat.epoch, chat.messages)

    async def post(self, request: Request) -> JSONResponse:
        """Take in a message of a user."""
        text = (await request.body()).decode(errors="replace")
        message_id = request.headers.get(MESSAGE_ID) or secrets.token_hex(8)
        async with self.open(request.path_params["uid"]) as (chat, messages):
            ids = [message["id"] for message in messages]
            if message_id in ids:  # it was taken in, and its answer was lost
                count = ids.index(message_id) + 1
            else:
                longer: list[Message] = [*messages, {"id": message_id, "text": text}]
                await self.database.save(chat.ownership.uid, chat.epoch, longer)
                chat.messages = longer
                count = len(longer)
        return self.answer(chat, {"count": count})

    async def get(self, request: Request) -> JSONResponse:
        """Tell the messages of a user."""
        async with self.open(request.path_params["uid"]) as (chat, messages):
            return self.answer(chat, {"messages": [message["text"] for message in messages]})

    @contextlib.asynccontextmanager
    async def open(self, uid: str) -> AsyncIterator[tuple[Chat, list[Message]]]:
        """Hold the chat of a user, and nobody else in this process does meanwhile.

        Raises:
            NotOwnerError: if another pod owns the user.

        """
        chat = await self.chat(uid)
        try:
            async with chat.turn:
                if chat.messages is None:
                    chat.messages = await self.database.open(uid, chat.epoch)
                yield chat, chat.messages
        except StaleEpochError:
            # The database knows more than this pod: another one owns the user, be Redis there to say so or not.
            with contextlib.suppress(StoreError):
                await chat.ownership.release()
            raise NotOwnerError(uid, None, None) from None

    async def chat(self, uid: str) -> Chat:
        """Return the chat of a user who is linked to this pod, claimed at the first request.

        Raises:
            NotOwnerError: if another pod owns the user.

        """
        chat = self.chats.get(uid)
        # ``held``, and not ``is_owned()``: while Redis is away a pod cannot know for longer than its lease whether it
        # still owns a user. This one goes on nevertheless, because the database refuses what it must not do. A pod
        # without such a database asks ``is_owned()``, and answers 421 until Redis is back.
        if chat is not None and chat.ownership.held:
            return chat
        ownership = await self.server.claim(uid)
        ownership.require()
        chat = self.chats.get(uid)
        # If the user may have been elsewhere in between, this memory is out of date.
        if chat is None or not (chat.epoch == ownership.epoch or ownership.resumes(chat.ownership)):
            chat = self.chats[uid] = Chat(ownership)
        chat.ownership = ownership
        return chat

    def answer(self, chat: Chat, what: dict[str, object]) -> JSONResponse:
        """Answer, and say who does so and with what right."""
        who = {"pod": self.config.pod_index, "epoch": chat.epoch, "uid": chat.ownership.uid}
        return JSONResponse(who | what)

    async def misdirected(self, _: Request, error: Exception) -> JSONResponse:
        """Refuse a user of another pod, and say whose it is."""
        owner = error.pod_index if isinstance(error, NotOwnerError) else None
        return JSONResponse({"error": str(error), "owner": owner}, HTTPStatus.MISDIRECTED_REQUEST)


def main() -> None:
    """Run one pod until SIGTERM, or until its stdin ends."""
    arguments = routed(parser("stateful_route.demo.pod", __doc__))
    arguments.add_argument("--database", required=True)
    arguments.add_argument("--index", type=int, required=True)
    options = arguments.parse_args()
    listener, address = listen()
    config = attrs.evolve(
        TUNING,
        namespace=options.namespace,
        service_name=SERVICE_NAME,
        pod_name=f"{SERVICE_NAME}-{options.index}",
        pod_index=options.index,
        address=address,
        index_is_exclusive=True,  # whoever starts a pod again has waited for the end of the process before
    )
    serve(Pod(options.redis_url, options.database, config).application, listener)


if __name__ == "__main__":
    main()
