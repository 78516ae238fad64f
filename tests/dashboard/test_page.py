"""The page in a browser: what it shows, what it must not run, and how it is used."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import pytest

from stateful_route import BaseConfig, StatefulRoute
from stateful_route.links import LinkKey
from stateful_route.ops import Operator, PastChange
from stateful_route.pods import PodLife, PodReport
from stateful_route.testing import MemoryStore
from tests.dashboard.browser import IS_THERE, Page
from tests.dashboard.conftest import SERVICE, TOKEN, Served, pod_of, served
from tests.waiting import eventually

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable
    from contextlib import AbstractAsyncContextManager

    from stateful_route import ServerDriver
    from stateful_route.embedded.server import LocalServer

    Serve = Callable[..., AbstractAsyncContextManager[Served]]
    MakePod = Callable[..., ServerDriver]

pytestmark = [pytest.mark.skipif(not IS_THERE, reason="needs Chromium"), pytest.mark.timeout(180)]

HOSTILE = (
    "<img src=x onerror=window.hacked=1>",
    "<script>window.hacked=1</script>",
    "javascript:window.hacked=1",
    "</script><svg onload=window.hacked=1>",
    "{{7*7}}&lt;b&gt;",
    "a\u202eb\x07c\x1b[31md\ne\u2066f",
)
TAB, ENTER, ESCAPE = ("Tab", 9), ("Enter", 13, "\r"), ("Escape", 27)


@pytest.fixture
async def page() -> AsyncIterator[Page]:
    """Provide a browser; nothing that it was told to refuse, and no error of a script, is left in its page."""
    async with Page() as page:
        yield page
        assert [] == await page.wrong()


async def rows(page: Page) -> list[str]:
    """Return the pods of the table, in their order, as their headers say."""
    found: list[str] = await page.run("[...document.querySelectorAll('#rows th')].map((cell) => cell.textContent)")
    return found


async def says(page: Page, selector: str) -> str:
    return str(await page.run(f"document.querySelector('{selector}').textContent"))


class TestLooking:
    async def test_pods(self, serve: Serve, make_pod: MakePod, page: Page) -> None:
        """Pods are shown as they come, take on uids, and go; and what has happened, in words."""
        async with serve() as dashboard, make_pod(0) as pod:
            await pod.claim("alice")
            await page.open(f"{dashboard.url}?service={SERVICE}")
            await page.holds("document.querySelector('#rows .links')?.textContent === '1'")
            async with make_pod(1):
                await page.shows("pod 1 (room-1) is there")
                both = await rows(page)
            await page.shows("pod 1 (room-1) has said goodbye")
            await page.holds(
                "[...document.querySelectorAll('#rows .state')].map((it) => it.textContent).join() === 'ready,left'"
            )
            tiles = await says(page, "#tiles")
            story = await says(page, "#story")
            names = await page.run("[...document.querySelectorAll('#rows .c-podName')].map((it) => it.textContent)")

        assert ["0", "1"] == both
        assert ["room-0", "room-1"] == names
        assert "dead" not in story
        assert "Pods alive1 of 2" in tiles
        assert "live" == await says(page, "#state") or "no dashboard" == await says(page, "#state")

    async def test_services(self, serve: Serve, make_pod: MakePod, page: Page) -> None:
        """Another service is chosen, and the address names it: a reload shows it again."""
        async with serve() as dashboard, make_pod(0), make_pod(7, "hall"):
            await eventually(lambda: _both(dashboard))
            await page.open(dashboard.url)
            await page.holds("document.querySelector('#rows th')?.textContent === '7'")
            await page.run(
                "(() => { const it = document.querySelector('#service'); it.value = 'room';"
                " it.dispatchEvent(new Event('input', {bubbles: true})) })()"
            )
            await page.holds("document.querySelector('#rows th')?.textContent === '0'")
            address = await page.run("location.search")
            await page.run("location.reload()")
            await page.holds("document.querySelector('#rows th')?.textContent === '0'")

        assert "?service=room" == address

    async def test_find(self, serve: Serve, make_pod: MakePod, page: Page) -> None:
        """A uid is found by the keyboard alone, with its owner, kind, epoch and age; one without a link is not."""
        async with serve() as dashboard, make_pod(0) as pod:
            owned = await pod.claim("alice")
            await eventually(dashboard.boards.operator.services)
            await page.open(dashboard.url)
            await page.holds("document.querySelectorAll('#rows tr').length === 1")
            await page.type("#uid", "alice")
            await page.press(*ENTER)
            await page.shows(str(owned.epoch))
            found = await says(page, "#found")
            await page.type("#uid", "nobody")
            await page.press(*ENTER)
            await page.shows("nobody has no link in any service")

        assert "ownerpod 0 (room-0), alive" in found
        assert "persistent" in found
        assert "Move" not in found

    async def test_history(self, namespace: str, page: Page) -> None:
        """Where there is a history it is told, whatever is in it."""
        store = MemoryStore()
        await store.register(pod_of(namespace, 0), PodReport(), 60.0, 3600.0)
        await store.claim(LinkKey(namespace, "alice", SERVICE), PodLife(0, 1))
        async with served(_Remembers(store, BaseConfig(namespace=namespace)), namespace) as dashboard:
            await page.open(dashboard.url)
            await page.holds("document.querySelectorAll('#rows tr').length === 1")
            await page.type("#uid", "alice")
            await page.press(*ENTER)
            await page.shows("1970-01-01")
            await page.shows(f"- nobody → pod 0, {HOSTILE[0]}, its pod drained, epoch 12")

    async def test_sort_and_filter(self, namespace: str, page: Page) -> None:
        """The headings sort, and say so; a filter and a choice leave rows out."""
        store = MemoryStore()
        links = {0: 5, 1: 50, 2: 20, 3: 7, 10: 9}
        for index, count in links.items():
            state = "DENY_NEW_CALL" if index == 2 else "READY"
            report = PodReport(links=count, routing_state=state, zone="north" if index % 2 else "south")
            await store.register(pod_of(namespace, index), report, 60.0, 3600.0)
        async with served(Operator(store, BaseConfig(namespace=namespace)), namespace, always=SERVICE) as dashboard:
            await page.open(dashboard.url)
            await page.holds("document.querySelectorAll('#rows tr').length === 5")
            orders = [await rows(page)]
            for _ in range(2):
                await page.click("#head .c-links button")
                orders.append(await rows(page))
            sorted_as = await page.run("document.querySelector('#head .c-links').ariaSort")
            await page.type("#filter", "north")
            await page.holds("document.querySelectorAll('#rows tr').length === 2")
            counted = await says(page, "#count")
            await page.type("#filter", " ")
            await page.run(
                "(() => { const it = document.querySelector('#which'); it.value = 'draining';"
                " it.dispatchEvent(new Event('input', {bubbles: true})) })()"
            )
            await page.holds("document.querySelectorAll('#rows tr').length === 1")
            left = await rows(page)

        assert [["0", "1", "2", "3", "10"], ["1", "2", "10", "3", "0"], ["0", "3", "10", "2", "1"]] == orders
        assert ("ascending", "2 of 5", ["2"]) == (sorted_as, counted, left)


async def _both(dashboard: Served) -> bool:
    return len(await dashboard.boards.operator.services()) == 2


class _Remembers(Operator):
    """An operator of a store whose histories may say anything."""

    async def history(self, service_name: str, uid: str, *, namespace: str = "") -> list[PastChange]:
        known: dict[str, Any] = {"from_pod": None, "from_incarnation": None, "to_pod": 0, "to_incarnation": 1}
        return [PastChange(at=at, why=HOSTILE[0], epoch=12, draining=True, **known) for at in (1000.0, 1e18)]


async def test_hostile(shared_server: LocalServer, page: Page) -> None:
    """Markup and control characters in every name are shown as text, escaped where they would act; nothing runs."""
    namespace, service = f"ns {HOSTILE[0]}", f"service {HOSTILE[3]}"
    config = BaseConfig(namespace=namespace, heartbeat=0.1, lease=2.0, call_deadline=1.0)
    async with StatefulRoute.from_url(shared_server.url, config) as route:
        operator = route.operator()
        lives = []
        for index, name in enumerate(HOSTILE):
            report = PodReport(zone=name, version=name, address=name, pod_name=name)
            life = await route.store.register(pod_of(namespace, index, service), report, 600.0, 3600.0)
            lives.append(PodLife(index, life.incarnation))
        async with served(operator, namespace, token=TOKEN) as dashboard:
            await page.open(dashboard.url)
            await page.holds(f"document.querySelectorAll('#rows tr').length === {len(HOSTILE)}")
            for uid in HOSTILE:
                key = LinkKey(namespace, uid, service)
                await route.store.claim(key, lives[0])
                await route.store.assign(key, lives[1])
            await page.holds(f"document.querySelectorAll('#story .of-links').length >= {len(HOSTILE)}")
            shown = await page.run("[...document.querySelectorAll('#rows .c-zone')].map((cell) => cell.textContent)")
            names = await page.run("[...document.querySelectorAll('#rows .c-podName')].map((cell) => cell.textContent)")
            hover = await page.run("[...document.querySelectorAll('#rows td.c-podName')].map((cell) => cell.title)")
            told = await says(page, "#story")
            for uid in HOSTILE[:2]:
                await page.type("#uid", uid)
                await page.press(*ENTER)
                await page.holds(
                    "document.querySelector('#found strong bdi')?.textContent === document.querySelector('#uid').value"
                )
                await page.click("#found button")
                await page.holds("document.querySelector('#ask').open")
                await page.press(*ESCAPE)
            hacked = await page.run("window.hacked")
            foreign = await page.run("document.querySelectorAll('main img, main script, main svg:not(.curve)').length")
            markup = await page.run(
                "(() => { try { document.body.innerHTML = '<b>'; } catch { return 'refused'; } })()"
            )
            inline = await page.run(
                "(() => { const it = document.createElement('div'); it.setAttribute('onclick', 'window.hacked = 2');"
                " document.body.append(it); it.click(); return window.hacked })()"
            )
            await page.holds("window.wrong.length >= 2")  # the policy has refused both, and says so a moment later
            await page.run("window.wrong = []")  # it is by nothing else that the page is found clean

    assert [*HOSTILE[:5], "a\\u{202e}b\\u{7}c\\u{1b}[31md\\u{a}e\\u{2066}f"] == shown
    assert shown == names
    assert [f"{name} at {name}" for name in shown] == hover
    assert all(uid in told for uid in HOSTILE[:5])
    assert "\\u{1b}[31md" in told
    assert (None, 0, "refused", None) == (hacked, foreign, markup, inline)


class TestOrders:
    async def test_drain(self, serve: Serve, make_pod: MakePod, page: Page) -> None:
        """A pod is drained by the keyboard: with a question, and the token, which is asked for once."""
        async with serve(token=TOKEN) as dashboard, make_pod(0) as pod, make_pod(1):
            await pod.claim("alice")
            await page.open(f"{dashboard.url}?service={SERVICE}")
            await page.holds("document.querySelectorAll('#rows button').length === 2")
            await page.run("document.querySelector('[aria-label=\"Drain pod 0 (room-0)\"]').focus()")
            await page.press(*ENTER)
            await page.holds("document.activeElement.id === 'ask-token'")
            question = await says(page, "#ask")
            await page.type("#ask-token", "a wrong one")
            await page.press(*ENTER)
            await page.shows("the token is wrong")
            still = await pod.get_routing_state()
            await page.type("#ask-token", TOKEN)
            await page.press(*ENTER)
            await page.holds("!document.querySelector('#ask').open")
            await page.holds("document.querySelector('#rows .state').textContent !== 'ready'")
            drained = await pod.get_routing_state()
            await page.click('[aria-label="Undrain pod 0 (room-0)"]')
            await page.holds("document.querySelector('#ask').open")
            await page.click("#ask-yes")
            await page.holds("document.querySelector('#rows .state').textContent === 'ready'")
            stored = await page.run("localStorage.length + sessionStorage.length + document.cookie.length")

        assert "Drain pod 0 (room-0) of room?" in question
        assert ("READY", "DENY_NEW_CALL") == (still, drained)
        assert 0 == stored

    async def test_move(self, serve: Serve, make_pod: MakePod, page: Page) -> None:
        """A uid that was found is moved, and shown where it is then; what cannot be is said."""
        async with serve(token=TOKEN) as dashboard, make_pod(0) as pod, make_pod(1):
            await pod.claim("alice")
            await eventually(dashboard.boards.operator.services)
            await page.open(dashboard.url)
            await page.holds("document.querySelectorAll('#rows tr').length === 2")
            await page.type("#uid", "alice")
            await page.press(*ENTER)
            await page.holds("!!document.querySelector('#found button')")
            await page.click("#found button")
            await page.holds("document.activeElement.id === 'ask-pod'")
            await page.type("#ask-pod", "7")
            await page.type("#ask-token", TOKEN)
            await page.press(*ENTER)
            await page.shows("is not alive")
            await page.type("#ask-pod", "1")
            await page.press(*ENTER)
            await page.shows("pod 1 (room-1), alive")

            assert not await page.run("document.querySelector('#ask').open")

    async def test_read_only(self, serve: Serve, make_pod: MakePod, page: Page) -> None:
        """Where nothing may be changed there is nothing to press."""
        async with serve() as dashboard, make_pod(0):
            await page.open(f"{dashboard.url}?service={SERVICE}")
            await page.holds("document.querySelectorAll('#rows tr').length === 1")
            await page.shows("read only")

            assert await page.run("getComputedStyle(document.querySelector('#rows .c-act')).display === 'none'")


class TestAway:
    async def test_redis(self, own_server: LocalServer, config: BaseConfig, page: Page) -> None:
        """While Redis is away the page says so, shows what it knows, and goes on once it is back."""
        async with StatefulRoute.from_url(own_server.url, config) as route, route.server(pod_of(config.namespace, 0)):
            async with served(route.operator(), config.namespace, always=SERVICE) as dashboard:
                await page.open(dashboard.url)
                await page.shows("live")
                await page.holds("document.querySelectorAll('#rows tr').length === 1")
                own_server.kill()
                await page.shows("Redis does not answer")
                await page.shows("Below is what was seen")
                kept = await rows(page)
                own_server.restart()
                await page.holds("document.querySelector('#trouble').hidden")
                await page.shows("Redis answers again")

        assert ["0"] == kept

    async def test_dashboard(self, serve: Serve, make_pod: MakePod, page: Page) -> None:
        """A page whose dashboard has ended says so, and keeps what it knows."""
        async with make_pod(0):
            async with serve() as dashboard:
                await page.open(f"{dashboard.url}?service={SERVICE}")
                await page.holds("document.querySelectorAll('#rows tr').length === 1")
            await page.shows("The dashboard does not answer")

            assert ["0"] == await rows(page)

    async def test_nothing_there(self, serve: Serve, page: Page) -> None:
        """Where no service was ever seen that is said."""
        async with serve() as dashboard:
            await page.open(dashboard.url)
            await page.shows("No service was ever seen in namespace")


async def fleet(store: MemoryStore, namespace: str, count: int) -> list[PodLife]:
    lives = []
    for index in range(count):
        state = {1: "DENY_NEW_CALL", 2: "SHUTDOWN"}.get(index, "READY")
        numbers: dict[str, Any] = {"links": index % 97, "load": index % 50, "max_links": 200}
        report = PodReport(routing_state=state, zone=f"zone-{index % 3}", version="1.2.3", **numbers)
        life = await store.register(pod_of(namespace, index), report, 600.0, 3600.0)
        lives.append(PodLife(index, life.incarnation))
    return lives


class TestLooks:
    @pytest.mark.parametrize("dark", [False, True])
    @pytest.mark.parametrize(("width", "height"), [(390, 844), (768, 1024), (1440, 1000), (3840, 2160)])
    async def test_sizes(self, namespace: str, page: Page, width: int, height: int, dark: bool) -> None:
        """From a phone to a wall nothing sticks out, and texts stand out against what is behind them."""
        store = MemoryStore()
        await fleet(store, namespace, 40)
        async with served(Operator(store, BaseConfig(namespace=namespace)), namespace, always=SERVICE) as dashboard:
            store.mark_dead(namespace, SERVICE, 3)
            await page.open(dashboard.url, width=width, height=height, dark=dark)
            await page.holds("document.querySelectorAll('#rows tr').length === 40")
            sideways = await page.run("document.documentElement.scrollWidth - innerWidth")
            ground, contrasts = await page.run(_CONTRASTS)

        assert sideways <= 0
        assert (ground < 0.1) == dark
        assert {} == {what: value for what, value in contrasts.items() if value < 4.5}

    @pytest.mark.parametrize("width", [1280, 2400])
    async def test_long_names(self, namespace: str, page: Page, width: int) -> None:
        """Of long names the ends are seen, and no button is out of sight; for that what pods took on may give way."""
        store = MemoryStore()
        for index in range(3):
            report = PodReport(zone=f"zone-{index}", version="1.2.3", pod_name=f"room-{'7' * 60}-{index}")
            await store.register(pod_of(namespace, index), report, 600.0, 3600.0)
        async with served(
            Operator(store, BaseConfig(namespace=namespace)), namespace, always=SERVICE, token=TOKEN
        ) as dashboard:
            await page.open(dashboard.url, width=width)
            await page.holds("document.querySelectorAll('#rows button').length === 3")
            sideways = await page.run(
                "(() => { const it = document.querySelector('.scroll'); return it.scrollWidth - it.clientWidth })()"
            )
            placed = await page.run("document.querySelector('#rows .c-placedTotal').offsetWidth > 0")
            cut, end = await page.run(
                "(() => { const cell = document.querySelector('#rows .c-podName'), box = cell.getBoundingClientRect();"
                " const name = cell.firstChild.getBoundingClientRect();"
                " return [name.left < box.left, name.right <= box.right] })()"
            )

        assert 0 == sideways
        assert (width > 2000) == placed
        assert (True, True) == (cut, end)

    async def test_for_readers(self, namespace: str, page: Page) -> None:
        """A screen reader has a table with headings, a name for each control, and is told what goes wrong."""
        store = MemoryStore()
        await fleet(store, namespace, 3)
        async with served(
            Operator(store, BaseConfig(namespace=namespace)), namespace, always=SERVICE, token=TOKEN
        ) as dashboard:
            await page.open(dashboard.url)
            await page.holds("document.querySelectorAll('#rows tr').length === 3")
            await page._of_page("Accessibility.enable")
            tree = (await page._of_page("Accessibility.getFullAXTree"))["nodes"]
        found: dict[str, list[str]] = {}
        for node in tree:
            if not node.get("ignored"):
                found.setdefault(node["role"]["value"], []).append(node.get("name", {}).get("value", ""))

        assert ["0", "1", "2"] == found["rowheader"]
        assert 4 == len(found["row"])
        assert {"Pod", "State", "Links", "Load", "Heartbeat", "Zone", "Version"} <= {
            name.split(" ")[0] for name in found["columnheader"]
        }
        for role in ("button", "combobox", "searchbox", "checkbox", "table", "image"):
            assert all(name.strip() for name in found[role]), (role, found[role])
        assert {"Service", "Show"} <= set(found["combobox"])

    async def test_keyboard(self, namespace: str, page: Page) -> None:
        """The tab key reaches all that can be used, in the order in which it is seen, and the focus is visible."""
        store = MemoryStore()
        await fleet(store, namespace, 2)
        async with served(Operator(store, BaseConfig(namespace=namespace)), namespace, always=SERVICE) as dashboard:
            await page.open(dashboard.url)
            await page.holds("document.querySelectorAll('#rows tr').length === 2")
            reached, unseen = [], []
            for _ in range(18):
                await page.press(*TAB)
                what, outline = await page.run(
                    "(() => { const it = document.activeElement; const how = getComputedStyle(it);"
                    " return [it.id || it.className || it.textContent, how.outlineStyle !== 'none'] })()"
                )
                reached.append(what)
                unseen += [] if outline or "Skip to the pods" in what else [what]  # the page itself, at its end

        order = ["skip", "service", "which", "filter", "scroll", "Pod", "State", "Links", "uid", "links-too", "story"]
        assert order == [what for what in reached if what in order][: len(order)]
        assert [] == unseen

    async def test_a_thousand(self, namespace: str, page: Page) -> None:
        """A thousand pods that all change each second cost the page little, and rows stay the same elements."""
        store = MemoryStore()
        lives = await fleet(store, namespace, 1000)
        async with served(
            Operator(store, BaseConfig(namespace=namespace)), namespace, always=SERVICE, interval=0.5
        ) as dashboard:
            await page.open(dashboard.url)
            await page.holds("document.querySelectorAll('#rows tr').length === 1000", 60.0)
            await page.run("window.first = document.querySelector('#rows tr')")
            await page.click("#head .c-load button")
            await page._of_page("Performance.enable", timeDomain="threadTicks")
            before = await _cost(page), await page.run("document.querySelectorAll('*').length")
            board = dashboard.boards._boards[SERVICE]
            last = board.number + 10
            sequence = 1
            while board.number < last:
                sequence += 1
                for life in lives:
                    report = PodReport(links=(life.pod_index * sequence) % 97, load=(life.pod_index + sequence) % 50)
                    server = pod_of(namespace, life.pod_index)
                    await store.heartbeat(server, life.incarnation, sequence, report, 600.0, 3600.0)
                await asyncio.sleep(0.3)  # between two heartbeats
            cost = (await _cost(page) - before[0]) / 10
            after = await page.run("document.querySelectorAll('*').length")
            same = await page.run("window.first.isConnected")

        assert cost < 0.25, f"{cost:.3f} s of the processor for each message"
        assert same
        assert abs(after - before[1]) < 3000


async def _cost(page: Page) -> float:
    """Return how many seconds of the processor the page has used."""
    metrics = (await page._of_page("Performance.getMetrics"))["metrics"]
    return float(next(metric["value"] for metric in metrics if metric["name"] == "TaskDuration"))


# The luminance of the ground, and the contrast of what is shown to what is behind it, by what it is.
_CONTRASTS = """
(() => {
  const canvas = document.createElement("canvas").getContext("2d", {willReadFrequently: true});
  const rgb = (color) => {
    canvas.clearRect(0, 0, 1, 1);
    canvas.fillStyle = color;
    canvas.fillRect(0, 0, 1, 1);
    return [...canvas.getImageData(0, 0, 1, 1).data];
  };
  const linear = (one) => (one <= 0.04045 ? one / 12.92 : ((one + 0.055) / 1.055) ** 2.4);
  const light = (color) => {
    const [r, g, b] = rgb(color).map((one) => linear(one / 255));
    return 0.2126 * r + 0.7152 * g + 0.0722 * b;
  };
  const behind = (it) => {
    for (let one = it; one; one = one.parentElement) {
      const color = getComputedStyle(one).backgroundColor;
      if (rgb(color)[3] > 250) return color;
    }
    return "white";
  };
  const found = {};
  const states = ["good", "warn", "gone", "bad"].map((look) => `[data-look=${look}] .state`);
  const others = ["#find button", "#state", "figcaption", ".field", "footer", "select", "#rows td", "#rows .id"];
  for (const what of ["h1", "h2", "dt", "dd", "th", ...states, ...others]) {
    const it = document.querySelector(what);
    const [a, b] = [light(getComputedStyle(it).color), light(behind(it))].sort((x, y) => y - x);
    found[what] = (a + 0.05) / (b + 0.05);
  }
  return [light(getComputedStyle(document.body).backgroundColor), found];
})()
"""
