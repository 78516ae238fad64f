"""The ways to a pod that are compared: all of them run beside each other, and those that are not asked are idle."""

from __future__ import annotations

import asyncio
import contextlib
import json
import secrets
import sys
from typing import TYPE_CHECKING

import attrs

from benchmarks.goals import SUBJECT
from benchmarks.web import processes, proxies, wrk
from benchmarks.web.apps import NAMESPACE, REDIS
from benchmarks.web.generator import Seen, Work
from benchmarks.web.processes import LOOPBACK
from benchmarks.web.raw import Connection, request_bytes
from benchmarks.web.sticky_apps import SERVICE, UIDS
from stateful_route.web.proxies import Plan
from stateful_route.web.uids.spelled import sources_from

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Sequence
    from pathlib import Path

    from benchmarks.web.processes import Program

NGINX = "nginx"
POD = "pod, called directly"
HTTPX = "httpx gateway"
HERE = "ours, where it arrived"
SHORT = "ours, by the shortcut"
GATEWAY = "ours, gateway"
OWNER = "nginx, to the owner"
DECIDE = "nginx + decide"
KEPT = "nginx + decide, kept for 1 s"
REPLAY = "nginx + replay"

ROOMS = "/rooms/{uid}"
LARGE = "/large?uid={uid}"
UPLOAD = "/upload?uid={uid}"
SOCKET = "/ws?uid={uid}"
_WHO = "/whoami?uid={uid}"
_FORWARDED = {"X-Sticky-Replayed": "1"}  # so that the one that does not forward does
_UIDS = 64
_OWN = "benchmarks.web.sticky_apps"
_SHORTCUT = "stateful_route.web.uvicorn:StickyProtocol"
_MOST_ASKED = 20
_OUTPUT = 60.0


@attrs.frozen
class Way:
    """A way to the pod.

    Attributes:
        entry: the program that is asked.
        uids: that it is asked for.
        programs: all that take part, the entry first.

    """

    entry: Program
    uids: Sequence[str]
    programs: Sequence[Program]

    def paths(self, path: str) -> list[str]:
        """Return what is asked for, a path for each uid."""
        return [path.format(uid=uid) for uid in self.uids]

    def cpu_seconds(self) -> float:
        """Return the processor time that all who take part have used."""
        return sum(program.cpu_seconds() for program in self.programs)


@contextlib.asynccontextmanager
async def ways(redis: str, folder: Path, *, uids: int = _UIDS) -> AsyncIterator[dict[str, Way]]:
    """Run all ways, by name; without nginx on the PATH those through it are left out.

    ``SUBJECT`` is a request that is forwarded by a replica that does not own its uid to the one that does; ``SHORT``
    is the same under ``uvicorn --http stateful_route.web.uvicorn:StickyProtocol``, as the gateway is.
    """
    env = _environment(redis)
    async with contextlib.AsyncExitStack() as stack:

        async def run(name: str, app: str, http: str = "httptools") -> Program:
            program = await processes.start_app(name, app, folder, env, http=http)
            return await stack.enter_async_context(processes.ending(program))

        pod = await run("pod", "benchmarks.web.apps:registered")
        httpx = await run("httpx-gateway", "benchmarks.web.httpx_gateway:app")
        first, second = [await run(f"replica-{name}", f"{_OWN}:sticky") for name in "ab"]
        third = await run("replica-c", f"{_OWN}:sticky", _SHORTCUT)
        gateway = await run("gateway", f"{_OWN}:gateway", _SHORTCUT)
        for program in (pod, first, second, third):
            await processes.until_answers(program)
        for program in (httpx, gateway):
            await processes.until_open(program)
        here, there = await owned([first, second], uids)
        found: dict[str, Way] = {}
        if proxies.missing(NGINX) is None:
            nginx = proxies.Nginx(folder, keepalive=True, unbuffered=["/large", "/upload"])
            await nginx.use([pod])
            await stack.enter_async_context(processes.ending(nginx.program))
            found[NGINX] = Way(nginx.program, here, [nginx.program, pod])
        yield found | {
            POD: Way(pod, here, [pod]),
            HTTPX: Way(httpx, here, [httpx, pod]),
            HERE: Way(first, here, [first]),
            SUBJECT: Way(first, there, [first, second]),
            SHORT: Way(third, there, [third, second]),
            GATEWAY: Way(gateway, there, [gateway, second]),
        }


@contextlib.asynccontextmanager
async def ways_by_nginx(redis: str, folder: Path, *, uids: int = _UIDS) -> AsyncIterator[dict[str, Way]]:
    """Run the ways on which nginx carries a request, by name; none without nginx on the PATH.

    To a pod without the middleware and to one with it, which is the owner; there, after it has asked where that is; and
    there, after another pod has said so: with ``REPLAY`` the one that is not the owner is asked first, always.
    """
    if proxies.missing(NGINX) is not None:
        yield {}
        return
    env = _environment(redis)
    async with contextlib.AsyncExitStack() as stack:

        async def run(starting: Awaitable[Program]) -> Program:
            return await stack.enter_async_context(processes.ending(await starting))

        apps = {name: f"{_OWN}:{name.partition('-')[0]}" for name in ("sticky-a", "replaying-a", "replaying-b")}
        apps["pod"] = "benchmarks.web.apps:registered"
        protocols = dict.fromkeys(("replaying-a", "replaying-b"), _SHORTCUT)
        started = [
            run(processes.start_app(name, app, folder, env, http=protocols.get(name, "httptools")))
            for name, app in apps.items()
        ]
        owner, one, other, pod = await asyncio.gather(*started)
        for program in (owner, one, other, pod):
            await processes.until_answers(program)
        (here,), (_, there) = await owned([owner], uids), await owned([one, other], uids)
        decider = await run(_decider(folder, env))
        found = {NGINX: Way(await run(_plain(folder / "to-the-pod", pod)), here, [pod])}
        found[OWNER] = Way(await run(_plain(folder / "to-the-owner", owner)), here, [owner])
        for name, keep in ((DECIDE, 0), (KEPT, 1)):
            plan = _plan("decide", decider.port, [owner.address], keep)
            entry = await run(proxies.printed_nginx(f"nginx-decide-{keep}", folder, plan))
            found[name] = Way(entry, here, [decider, owner])
        plan = _plan("replay", 1, [one.address, other.address])
        entry = await run(proxies.printed_nginx("nginx-replay", folder, plan, first=one.address))
        found[REPLAY] = Way(entry, there, [one, other])
        yield {name: attrs.evolve(way, programs=[way.entry, *way.programs]) for name, way in found.items()}


async def _plain(folder: Path, pod: Program) -> Program:
    folder.mkdir()
    nginx = proxies.Nginx(folder, keepalive=True)
    await nginx.use([pod])
    return nginx.program


def _environment(redis: str) -> dict[str, str]:
    return {
        REDIS: redis,
        "STATEFUL_ROUTE_NAMESPACE": NAMESPACE,
        "STATEFUL_ROUTE_SECRET": secrets.token_hex(32),
    }


def _plan(mode: str, decide: int, pods: Sequence[str], keep: int = 0) -> Plan:
    sources = sources_from(UIDS)
    where = f"{LOOPBACK}:{decide}"
    listen = f"{LOOPBACK}:{processes.free_port()}"
    return Plan(
        service=SERVICE,
        uid=UIDS,
        sources=sources,
        mode=mode,
        listen=listen,
        decide=where,
        pods=pods,
        hold=6.0,
        keep=keep,
    )


async def _decider(folder: Path, env: dict[str, str]) -> Program:
    port = processes.free_port()
    command = [sys.executable, "-m", "stateful_route.cli", "decide", "--service", SERVICE, "--uid", UIDS]
    program = await processes.start("decide", [*command, "--port", str(port)], folder, port=port, env=env)
    await processes.until_open(program)
    return program


async def owned(replicas: Sequence[Program], count: int) -> list[list[str]]:
    """Return for each replica so many uids that it owns: new ones are asked for until there are enough.

    Raises:
        ProgramError: if there are not enough in the end.

    """
    found: dict[int, list[str]] = {replica.pid: [] for replica in replicas}
    connections = [await Connection.open(LOOPBACK, replica.port) for replica in replicas]
    try:
        for number in range(count * len(replicas) * _MOST_ASKED):
            uid = f"uid-{number:06}"
            answer = await connections[number % len(replicas)].send(
                request_bytes("GET", _WHO.format(uid=uid), LOOPBACK, _FORWARDED)
            )
            assert answer.is_success, answer
            found.setdefault(int(answer.body), []).append(uid)
            if all(len(found[replica.pid]) >= count for replica in replicas):
                return [found[replica.pid][:count] for replica in replicas]
    finally:
        for connection in connections:
            await connection.close()
    raise processes.ProgramError(f"one of the replicas owns too few: {[len(uids) for uids in found.values()]}")


async def load(work: Work, folder: Path) -> Seen:
    """Send that work from a process of its own: with wrk, if it is there and can."""
    if not wrk.is_there() or work.websocket:
        return await _by_our_generator(work)
    file = folder / "wrk.lua"
    file.write_text(wrk.script(work), encoding="utf-8")
    return wrk.read(await _output(wrk.command(work, file)))


async def load_briefly(work: Work) -> Seen:
    """Send that work for a tenth of the time: wrk knows whole seconds only."""
    return await _by_our_generator(attrs.evolve(work, seconds=work.seconds / 10))


async def _by_our_generator(work: Work) -> Seen:
    command = [sys.executable, "-m", "benchmarks.web.generator", json.dumps(attrs.asdict(work))]
    return Seen(**json.loads(await _output(command)))


async def _output(command: Sequence[str]) -> str:
    pipe = asyncio.subprocess.PIPE
    process = await asyncio.create_subprocess_exec(*command, stdout=pipe, stderr=pipe, cwd=processes.ROOT)
    try:
        async with asyncio.timeout(_OUTPUT):
            out, said = await process.communicate()
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    if process.returncode:
        raise processes.ProgramError(f"{command[0]} failed: {said.decode(errors='replace')[-2_000:]}")
    return out.decode()
