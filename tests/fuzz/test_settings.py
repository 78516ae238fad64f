"""Whatever a URL or the environment says, the answer is settings that hold together, or a ConfigError."""

from __future__ import annotations

import attrs
from hypothesis import given
from hypothesis import strategies as st

from stateful_route import BaseConfig, ConfigError, StatefulRoute
from stateful_route.store.transport.topology import Limits, open_url
from stateful_route.store.transport.url import read_url
from tests.fuzz.harness import Harness, fuzzing

_SCHEMES = ["redis", "rediss", "unix", "redis+sentinel", "redis+cluster", "valkey", "VALKEY", "http", ""]
_PARTS = [
    *("://", ":", "//", "/", "@", "?", "&", "=", "#", "%", "%40", "%zz", ",", "[", "]", "[::1]", "127.0.0.1", "host"),
    *(":6379", ":0", ":-1", ":99999", "/0", "/1", "/x", "db=1", "db=-1", "protocol=3", "protocol=9", "ssl=true"),
    *("ssl_cert_reqs=none", "ssl_min_version=771", "ssl_ca_certs=/x", "retry=1", "client_name=a", "password=p", "u:p@"),
    *(" ", "\n", "\0", "é", "℀", "\ud800", "\uff11", "socket_connect_timeout=nan", "socket_keepalive=maybe"),
]
_QUERY = st.lists(st.sampled_from([part for part in _PARTS if "=" in part]) | st.text(max_size=4), max_size=3)
orderly = st.builds(
    "{}://{}{}{}?{}".format,
    st.sampled_from(_SCHEMES),
    st.sampled_from(["", "u:p@", "u@", ":p@"]),
    st.sampled_from(["", "host", "host:6379", "[::1]:1", "a,b:1", "h:x"]),
    st.sampled_from(["", "/", "/0", "/1", "/name", "/run/s"]),
    _QUERY.map("&".join),
)
urls = orderly | st.builds(
    "{}{}".format, st.sampled_from(_SCHEMES), st.lists(st.sampled_from(_PARTS), max_size=10).map("".join)
)


def test_urls() -> None:
    """A URL is read, and can be opened, or it is refused by a ConfigError."""
    with Harness() as harness:

        async def use(url: str) -> None:
            try:
                StatefulRoute.from_url(url)
                if read_url(url).kind == "embedded":  # a server would be started
                    return
                connections = await open_url(url, Limits(1.0, 10))
            except ConfigError:
                return
            await connections.aclose()

        @fuzzing(400)
        @given(urls | st.text(max_size=30) | st.text(max_size=30).map("redis://{}".format))
        def check(url: str) -> None:
            harness.run(use(url))

        check()


_NAMES = [field.name.upper() for field in attrs.fields(BaseConfig)]
_TEXTS = st.text(st.characters(blacklist_characters="\0"), max_size=12) | st.sampled_from(
    [
        *(
            "0",
            "1",
            "-1",
            "1e3",
            "1e400",
            "nan",
            "inf",
            "1_000",
            "0x10",
            "\uff11",
            " 5 ",
            "true",
            "TRUE",
            "None",
            "1" * 5000,
        ),
        *("room-0", "room-99999", "\ud800", "9007199254740993", "0.0001", "1e-400"),
    ]
)


@fuzzing(500)
@given(
    st.dictionaries(
        st.sampled_from([f"P_{name}" for name in _NAMES] + ["HOSTNAME", "P_", "P_HEARTBEET", "P_PODINDEX"]),
        _TEXTS,
        max_size=6,
    )
)
def test_environment(environ: dict[str, str]) -> None:
    """The environment gives settings that their own JSON form gives too, or a ConfigError that names the variable."""
    try:
        config = BaseConfig.from_env("P_", environ)
    except ConfigError as error:
        assert error.setting in {f"P_{name}" for name in _NAMES}  # noqa: PT017 - not the claim alone
    else:
        assert config == BaseConfig.from_json(config.to_json())
        assert 0 < config.call_deadline_seconds
        assert config.retention_seconds >= 2 * config.lease_seconds


@given(st.text(max_size=40) | st.binary(max_size=40))
def test_json(text: str | bytes) -> None:
    """Text that is no JSON of settings is refused with an error of ours."""
    try:
        BaseConfig.from_json(text)
    except ValueError as error:
        assert type(error).__module__ == "stateful_route.errors"  # noqa: PT017 - not the claim alone
