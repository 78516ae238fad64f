"""A pod in a process of its own: claims the uids that it is told on its input, and says on its output what happens.

Arguments: the URL of the server, and the settings as JSON. Lines of input: ``claim uid uid ...``, ``owned``, and
``stall seconds``, for which the event loop stands still.
Each line of output is a JSON object with one of these: ``ready``, ``claimed``, ``owned``, ``stalled``,
``hand_off``, ``woke``.
"""

from __future__ import annotations

import asyncio
import json
import os
import signal
import sys
import time
from typing import TYPE_CHECKING

from stateful_route import BaseConfig, StatefulRoute
from stateful_route.server.signals import drain_on_signal

if TYPE_CHECKING:
    from stateful_route import ServerDriver


def say(**words: object) -> None:
    # One write, and no buffer: a handler of a signal may run in the middle of a print.
    os.write(1, f"{json.dumps(words)}\n".encode())


async def lines() -> asyncio.StreamReader:
    reader = asyncio.StreamReader()
    await asyncio.get_running_loop().connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), sys.stdin)
    return reader


async def obey(pod: ServerDriver, uids: list[str]) -> None:
    reader = await lines()
    while line := await reader.readline():
        verb, *names = line.decode().split()
        if verb == "claim":
            handles = [await pod.claim(uid) for uid in names]
            uids += [handle.uid for handle in handles if handle.is_owned()]
            say(claimed={handle.uid: [handle.is_owned(), handle.epoch, handle.inherited] for handle in handles})
        elif verb == "owned":
            say(owned=[uid for uid in uids if pod.owned(uid)], incarnation=pod.incarnation)
        elif verb == "stall":
            time.sleep(float(names[0]))
            say(stalled=[uid for uid in uids if pod.owned(uid)])


async def main(url: str, config: BaseConfig) -> None:
    ended = asyncio.Event()
    uids: list[str] = []

    async def hand_off(uid: str) -> None:
        say(hand_off=uid)

    loop = asyncio.get_running_loop()
    signal.signal(signal.SIGTERM, lambda *_: loop.call_soon_threadsafe(ended.set))
    async with StatefulRoute.from_url(url, config) as route, route.server(hand_off=hand_off) as pod:
        # The first thing that a process does when it goes on: nothing was sent or read since it was stopped.
        signal.signal(signal.SIGCONT, lambda *_: say(woke=[uid for uid in uids if pod.owned(uid)]))
        with drain_on_signal(pod):
            obeying = asyncio.create_task(obey(pod, uids))
            say(ready=pod.incarnation)
            await ended.wait()
            obeying.cancel()


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1], BaseConfig.from_json(sys.argv[2])))
