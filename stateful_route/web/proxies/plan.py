"""What a configuration is made of."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Literal, TypeAlias

import attrs

from stateful_route._validation import check_id, check_int, check_seconds
from stateful_route.errors import ConfigError
from stateful_route.web.addresses import is_http_address

if TYPE_CHECKING:
    from collections.abc import Sequence

    from stateful_route.web.uids.sources import UidSource

Mode: TypeAlias = Literal["decide", "replay"]

MODES = "decide", "replay"
_MOST_KEPT = 60
_PORT = re.compile(r"[0-9]{1,5}")
_PLAIN = re.compile(r"[ !#%&()*+,\-./0-9:;<=>?@A-Z\[\]^_a-z{|}~]+")  # fits into a comment and quotes of each language


@attrs.frozen(kw_only=True)
class Plan:
    """What a proxy is to do.

    Attributes:
        service: the name of the service.
        uid: the sources of its uids, as text.
        mode: whether the proxy asks first, or a pod that is not the owner has it repeat the request.
        listen: where the proxy listens: a port, or host and port.
        decide: host and port of ``stateful-route decide``.
        pods: host and port of each pod, or of what balances over all of them: needed for ``replay``; to ``decide`` they
            are where requests go while nobody decides.
        hold: seconds for which a question may be held.
        keep: seconds, from 0, for which nginx keeps an answer.
        statuses: what the ``missing`` of the sources can say.

    """

    service: str
    uid: str
    mode: Mode
    listen: str
    decide: str
    pods: tuple[str, ...]
    hold: float
    keep: int
    statuses: tuple[int, ...]

    @classmethod
    def checked(
        cls,
        *,
        service: str,
        uid: str,
        sources: Sequence[UidSource],
        mode: str,
        listen: str,
        decide: str,
        pods: Sequence[str],
        hold: float,
        keep: int = 0,
    ) -> Plan:
        """Return a plan.

        Raises:
            ConfigError: naming the option that is wrong or missing.
            InvalidArgumentError: naming the one of a wrong type or range.

        """
        check_id("service", service)
        check_seconds("patience", hold)
        check_int("keep", keep, 0, _MOST_KEPT)
        for option, value in (("service", service), ("uid", uid)):
            if not _PLAIN.fullmatch(value):
                raise ConfigError(option, value, "printable ASCII, without quotes, dollar signs and backslashes")
        if mode not in MODES:
            raise ConfigError("mode", mode, f"one of {', '.join(MODES)}")
        for option, value in (("decide", decide), *(("pods", pod) for pod in pods)):
            if not is_http_address(value):
                raise ConfigError(option, value, "host:port")
            if option == "pods" and pods.count(value) > 1:
                raise ConfigError(option, value, "each of them once")
        if not is_http_address(f"host:{listen}" if _PORT.fullmatch(listen) else listen):
            raise ConfigError("listen", listen, "a port, or host:port")
        if mode == "replay" and not pods:
            raise ConfigError("pods", None, "with replay: host:port of the pods, or of what balances over them")
        found = {source.missing for source in sources if source.missing is not None}
        return cls(
            service=service,
            uid=uid,
            mode="replay" if mode == "replay" else "decide",
            listen=listen,
            decide=decide,
            pods=tuple(pods),
            hold=hold,
            keep=keep,
            statuses=tuple(sorted(found)),
        )

    @property
    def timeout(self) -> int:
        """Seconds after which a question is given up."""
        return int(self.hold) + 5

    @property
    def listen_host(self) -> str:
        """The host of ``listen``; empty: all addresses."""
        return self.listen.rpartition(":")[0]

    @property
    def listen_port(self) -> int:
        """The port of ``listen``."""
        return int(self.listen.rpartition(":")[2])

    def command(self, proxy: str) -> str:
        """Return the command that answers the questions."""
        host, _, port = self.decide.rpartition(":")
        where = f"--host {host.strip('[]')} --port {port}"
        return f"stateful-route decide --for {proxy} --service '{self.service}' --uid '{self.uid}' {where}"
