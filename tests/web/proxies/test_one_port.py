"""Processes that share one port, each reached by proxies on the port of its peers."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tests.waiting import eventually
from tests.web.clients import ask, websocket
from tests.web.proxies.fronts import decider, launch_pods

if TYPE_CHECKING:
    from tests.web.clients import Response
    from tests.web.replicas import Replicas


async def decided(port: int, uri: str) -> Response:
    """Ask where a request goes."""
    return await ask(port, "/", headers=[("X-Original-URI", uri), ("X-Original-Method", "GET")])


async def test_workers_of_one_port(replicas: Replicas) -> None:
    """With ``uvicorn --workers`` the port of its peers is where a proxy reaches the owner, also by a WebSocket."""
    pods = launch_pods(replicas, 1, http_address="peer", more=("--workers", "2"))
    decide = decider(replicas, "nginx")
    pids = set()
    for number in range(200):  # until both have some
        uid = f"room-{number}"
        answer = await decided(decide.port, f"/rooms/{uid}/count")
        assert 204 == answer.status
        port = int((answer.header("x-pod-address") or "").rpartition(":")[2])
        assert port != pods[0].port
        served = await ask(port, f"/rooms/{uid}/count", "POST", b"x" * 100_000)
        again = await ask(pods[0].port, f"/rooms/{uid}/count")
        assert (200, 1, 100_000) == (served.status, served.json()["count"], served.json()["size"])
        assert (served.json()["pid"], 2) == (again.json()["pid"], again.json()["count"])
        pids.add(served.json()["pid"])
        async with websocket(port, f"/rooms/{uid}/ws") as socket:
            await socket.send("hello")
            assert f"{served.json()['pid']} hello" == await socket.recv()
        if len(pids) == 2 and number > 10:
            break

    assert 2 == len(pids)


async def test_http_is_not_spoken_unless_asked_for(replicas: Replicas) -> None:
    """Without that setting a connection of HTTP to the port of the peers is closed."""
    (pod,) = launch_pods(replicas, 1)
    await ask(pod.port, "/rooms/a/count", headers=[("X-Sticky-Replayed", "1")])
    peers = await peer_ports(replicas)

    for port in peers:
        try:
            answer = await ask(port, "/rooms/a/count")
        except Exception as error:  # noqa: BLE001 - however the connection ends
            assert "NoAnswerError" in repr(error) or isinstance(error, OSError)  # noqa: PT017
        else:
            raise AssertionError(answer)


async def peer_ports(replicas: Replicas) -> list[int]:
    """Return the ports on which pods listen for their peers."""
    import psutil  # noqa: PLC0415

    found: list[int] = []

    def look() -> bool:
        for replica in replicas.all:
            listening = psutil.Process(replica.pid).net_connections("tcp")
            found.extend(one.laddr.port for one in listening if one.status == psutil.CONN_LISTEN)
        return bool(found)

    await eventually(look)
    return [port for port in found if port not in {replica.port for replica in replicas.all}]
