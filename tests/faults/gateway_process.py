"""A gateway in a process of its own: says, as one line of JSON, to which pod and at which epoch each uid is routed.

Arguments: the URL of the server, the settings as JSON, and the uids.
"""

from __future__ import annotations

import asyncio
import json
import sys

from stateful_route import BaseConfig, StatefulRoute


async def main(url: str, config: BaseConfig, uids: list[str]) -> None:
    async with StatefulRoute.from_url(url, config) as route, route.client() as client:
        links = [await client.service("room").route(uid) for uid in uids]
    print(json.dumps([[link.pod_index, link.epoch] for link in links]))  # noqa: T201 - it is what it is for


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1], BaseConfig.from_json(sys.argv[2]), sys.argv[3:]))
