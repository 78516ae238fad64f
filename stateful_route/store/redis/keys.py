"""The names of the keys in Redis. Only this module builds them.

Layout of generation 2, the parts percent-encoded::

    sr2:link:{namespace:uid}:service     string   one link
    sr2:ended:{namespace:uid}:service    string   the epoch of the link that ended last, for a minute
    sr2:history:{namespace:uid}:service  list     what has become of the link, if that is kept
    sr2:services:namespace               set      the services of the namespace
    sr2:pods:{namespace:service}         hash     pod -> its last heartbeat; "table" -> what is said of all of them
    sr2:versions:{namespace:service}     zset     pod -> the version of the table with which it changed last
    sr2:deadlines:{namespace:service}    zset     pod -> when its lease ends
    sr2:request:{namespace:service}:pod:name   string   what an operator asks of a pod, until its time is up
    sr2:events:database:namespace:service      channel  what the clients of the service are told
    sr2:events:database:namespace:service:pod  channel  what a pod of it is told

What one script touches carries one hash tag, so it lies in one slot of a Redis Cluster. The generation is a part of
the prefix: releases that write different layouts do not see each other's keys. Within a generation a newer release
may only append: fields to a value or an event, kinds of events, keys beside these. ``tests/store/layouts`` has what
each release wrote.
"""

from __future__ import annotations

import functools
import re
from typing import TYPE_CHECKING
from urllib.parse import unquote

import attrs

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from stateful_route.pods import Topic

GENERATION = 2

# What has a meaning in the layout or in a pattern of SCAN, and what breaks a line of redis-cli.
_MEANINGFUL = re.compile(r"[{}:%*?\[\]\\^\s\x00-\x1f\x7f]")
_NAMESPACE = re.compile(rb"sr%d:(?:services:([^{}:]+)|[a-z]+:\{([^{}:]+):[^{}]*\}.*)" % GENERATION, re.DOTALL)


def encode(part: str) -> str:
    """Percent-encode the characters of ``part`` that have a meaning in the layout; ordinary ids stay as they are."""
    if part.replace("-", "").isalnum():  # a UUID, say: twice as fast
        return part
    return _MEANINGFUL.sub(_percent, part)


def decode(part: str) -> str:
    """Return the part that ``encode`` made this of."""
    return unquote(part)


def namespace_of(key: bytes) -> str | None:
    """Return the namespace in a key of this generation; ``None`` if it has none, or is not ours."""
    found = _NAMESPACE.fullmatch(key)
    if found is None:
        return None
    try:
        return decode((found[1] or found[2]).decode()) or None
    except UnicodeDecodeError:
        return None


def _percent(match: re.Match[str]) -> str:
    return "".join(f"%{byte:02X}" for byte in match[0].encode())


@functools.lru_cache(maxsize=1024)
def _encoded(part: str) -> str:
    """Encode a namespace or a service, of which there are few."""
    return encode(part)


@attrs.frozen
class LinkNames:
    """The names around the uids of one service.

    Attributes:
        link_start: the key of a link up to its uid.
        link_end: the key of a link from there on.
        ended_start: the key of the mark of the last tenure of a uid up to that; it ends as that of the link.

    """

    link_start: str
    link_end: str
    ended_start: str

    def link(self, uid: str) -> str:
        """Return the key of a link."""
        return f"{self.link_start}{encode(uid)}{self.link_end}"

    def links(self, uids: Sequence[str]) -> list[str]:
        """Return the keys of links: as ``link``, without a call for each."""
        start, end = self.link_start, self.link_end
        return [f"{start}{uid if uid.replace('-', '').isalnum() else encode(uid)}{end}" for uid in uids]

    def links_and_ended(self, uids: Sequence[str]) -> list[str]:
        """Return the keys of ``link_and_ended`` of each uid, one after the other."""
        return [key for uid in uids for key in self.link_and_ended(uid)]

    def link_and_ended(self, uid: str) -> tuple[str, str]:
        """Return the keys of a link and of the mark of the last tenure of its uid: they are in one slot."""
        uid = encode(uid)
        return f"{self.link_start}{uid}{self.link_end}", f"{self.ended_start}{uid}{self.link_end}"


class KeySpace:
    """Builds the keys of one generation of the layout."""

    __slots__ = ("_events", "_prefix", "of_links")

    def __init__(self, generation: int = GENERATION, database: int = 0) -> None:
        """Build keys of that generation of the layout, and channels for that database: a server has them for all."""
        self._prefix = f"sr{generation}:"
        self._events = f"{self._prefix}events:{database}:"
        self.of_links: Callable[[str, str], LinkNames] = functools.lru_cache(maxsize=1024)(self._link_names)
        """Return the names around the uids of a service, by its namespace and its name."""

    def link(self, namespace: str, uid: str, service_name: str) -> str:
        """Return the key of a link."""
        return self.of_links(namespace, service_name).link(uid)

    def _link_names(self, namespace: str, service_name: str) -> LinkNames:
        namespace, service_name = encode(namespace), encode(service_name)
        return LinkNames(
            link_start=f"{self._prefix}link:{{{namespace}:",
            link_end=f"}}:{service_name}",
            ended_start=f"{self._prefix}ended:{{{namespace}:",
        )

    def beside(self, link: str) -> tuple[str, str, str]:
        """Return the key of a link, of the mark of its last tenure and of its history: all are in one slot."""
        rest = link.removeprefix(f"{self._prefix}link:")
        return link, f"{self._prefix}ended:{rest}", f"{self._prefix}history:{rest}"

    def history(self, namespace: str, uid: str, service_name: str) -> str:
        """Return the key of the history of a link."""
        return self.beside(self.link(namespace, uid, service_name))[2]

    def services(self, namespace: str) -> str:
        """Return the key of the services of a namespace."""
        return f"{self._prefix}services:{_encoded(namespace)}"

    def pods(self, namespace: str, service_name: str) -> str:
        """Return the key of the pods of a service."""
        return self.pod_keys(namespace, service_name)[0]

    def is_pods(self, key: str) -> bool:
        """Whether a key is that of the pods of a service."""
        return key.startswith(f"{self._prefix}pods:")

    def pod_keys(self, namespace: str, service_name: str) -> tuple[str, str, str]:
        """Return the keys of the pods of a service, of their versions and of their deadlines: all in one slot."""
        service = f"{{{_encoded(namespace)}:{_encoded(service_name)}}}"
        return (
            f"{self._prefix}pods:{service}",
            f"{self._prefix}versions:{service}",
            f"{self._prefix}deadlines:{service}",
        )

    def request(self, topic: Topic, name: str) -> str:
        """Return the key of what is asked of a pod by that name."""
        service = f"{{{_encoded(topic.namespace)}:{_encoded(topic.service_name)}}}"
        return f"{self._prefix}request:{service}:{topic.pod_index}:{encode(name)}"

    def events(self, namespace: str, service_name: str) -> str:
        """Return the channel of what the clients of a service are told; that of a pod ends in a colon and its index."""
        return f"{self._events}{_encoded(namespace)}:{_encoded(service_name)}"

    def channel(self, topic: Topic) -> str:
        """Return the channel of a topic."""
        channel = self.events(topic.namespace, topic.service_name)
        return channel if topic.pod_index is None else f"{channel}:{topic.pod_index}"
