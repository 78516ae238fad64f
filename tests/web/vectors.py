"""Requests that parsers have read in two ways, or that a server must refuse: data, each named with what it tests.

The facts are those of RFC 9110 and RFC 9112, of what llhttp, Node and h11 test, and of lists of request smuggling.
``{p}`` stands for a path of the vector's own. ``SMUGGLED`` looks like a request: it is a body or junk, and never to be
answered.
"""

from __future__ import annotations

REFUSED = "refused"
"""By an error or by the end of the connection, and the app does not run."""
SERVED = "served"
"""Once, and with the body that is told; what follows on the connection is answered next."""
ANY = "any"
"""What is served is one request, and nothing more lenient than nginx."""

SMUGGLED = b"GET /rooms/smuggled HTTP/1.1\r\nHost: a\r\n\r\n"
CHUNKED = b"Transfer-Encoding: chunked"
_LAST = b"0\r\n\r\n"
_HELLO = b"5\r\nhello\r\n0\r\n\r\n"

VECTORS: dict[str, tuple[bytes, str, bytes]] = {}
"""By name: the bytes, what is expected, and the body that the app has to get."""


def _add(name: str, data: bytes, expected: str, body: bytes = b"") -> None:
    assert name not in VECTORS, name
    VECTORS[name] = data, expected, body


def _head(*lines: bytes, line: bytes = b"POST {p} HTTP/1.1", host: bytes = b"Host: a") -> bytes:
    return b"\r\n".join([line, *([host] if host else []), *lines, b"", b""])


def _posts(kind: str, expected: str, vectors: dict[str, tuple[list[bytes], bytes]], body: bytes = b"") -> None:
    """Add POSTs with these headers, and what follows the head."""
    for name, (lines, rest) in vectors.items():
        _add(f"{kind}: {name}", _head(*lines) + rest, expected, body)


def _gets(kind: str, expected: str, vectors: dict[str, bytes]) -> None:
    """Add GETs with one more line in the head."""
    for name, line in vectors.items():
        _add(f"{kind}: {name}", _head(line, line=b"GET {p} HTTP/1.1"), expected)


# Lengths: RFC 9110, 8.6; RFC 9112, 6.2 and 6.3 ------------------------------------------------------------------------

_posts("length", SERVED, {"plain": ([b"Content-Length: 5"], b"hello")}, b"hello")
_posts(
    "length",
    SERVED,
    {
        "in capitals": ([b"CONTENT-LENGTH: 5"], b"hello"),
        "leading zeros": ([b"Content-Length: 005"], b"hello"),
        "no space": ([b"Content-Length:5"], b"hello"),
        "spaces around": ([b"Content-Length:  \t 5 \t "], b"hello"),
    },
    b"hello",
)
_posts("length", SERVED, {"of a request as body": ([b"Content-Length: %d" % len(SMUGGLED)], SMUGGLED)}, SMUGGLED)
_posts("length", SERVED, {"none": ([], b""), "zero": ([b"Content-Length: 0"], b"")})
_posts(
    "length",
    REFUSED,
    {
        "two that differ": ([b"Content-Length: 0", b"Content-Length: %d" % len(SMUGGLED)], SMUGGLED),
        "two that differ, the longer first": ([b"Content-Length: %d" % len(SMUGGLED), b"Content-Length: 0"], SMUGGLED),
        "two in one": ([b"Content-Length: 0, %d" % len(SMUGGLED)], SMUGGLED),
        "signed": ([b"Content-Length: +5"], b"hello"),
        "negative": ([b"Content-Length: -5"], b"hello"),
        "negative zero": ([b"Content-Length: -0"], SMUGGLED),
        "hexadecimal": ([b"Content-Length: 0x5"], b"hello"),
        "hexadecimal without mark": ([b"Content-Length: 5a"], b"hello"),
        "decimal point": ([b"Content-Length: 5.0"], b"hello"),
        "exponent": ([b"Content-Length: 5e0"], b"hello"),
        "underscore": ([b"Content-Length: 1_0"], b"hellohello"),
        "empty": ([b"Content-Length:"], SMUGGLED),
        "only a space": ([b"Content-Length:  "], SMUGGLED),
        "two words": ([b"Content-Length: 5 5"], b"hello"),
        "a space in the number": ([b"Content-Length: 1 0"], b"hellohello"),
        "quoted": ([b'Content-Length: "5"'], b"hello"),
        "beyond 64 bits": ([b"Content-Length: 18446744073709551621"], b"hello"),
        "beyond 128 bits": ([b"Content-Length: " + b"9" * 40], b"hello"),
        "a fullwidth digit": ([b"Content-Length: \xef\xbc\x95"], b"hello"),
        "a superscript digit": ([b"Content-Length: \xb2"], b"hello"),
        "a NUL behind": ([b"Content-Length: 5\0"], b"hello"),
        "a vertical tab": ([b"Content-Length: \x0b5"], b"hello"),
        "a space before the colon": ([b"Content-Length : 5"], b"hello"),
        "a tab before the colon": ([b"Content-Length\t: 5"], b"hello"),
        "a word behind": ([b"Content-Length: 5;a"], b"hello"),
    },
)
_posts("length", ANY, {"twice the same": ([b"Content-Length: 5", b"Content-Length: 5"], b"hello")}, b"hello")
_posts("length", ANY, {"the same in a list": ([b"Content-Length: 5, 5"], b"hello")}, b"hello")
_posts("length", ANY, {"underscore in the name": ([b"Content_Length: %d" % len(SMUGGLED)], b"")})

# Codings: RFC 9112, 6.1 and 7 -----------------------------------------------------------------------------------------

_posts(
    "coding",
    SERVED,
    {
        "chunked": ([CHUNKED], _HELLO),
        "in capitals": ([b"TRANSFER-ENCODING: CHUNKED"], _HELLO),
        "a tab before the value": ([b"Transfer-Encoding:\tchunked"], _HELLO),
        "spaces behind": ([b"Transfer-Encoding: chunked  "], _HELLO),
    },
    b"hello",
)
_posts(
    "coding",
    REFUSED,
    {
        "and a length": ([CHUNKED, b"Content-Length: 5"], _HELLO),
        "behind a length": ([b"Content-Length: 6", CHUNKED], _LAST + SMUGGLED),
        "and a length of 0": ([b"Content-Length: 0", CHUNKED], _HELLO),
        "unknown": ([b"Transfer-Encoding: xchunked"], _LAST + SMUGGLED),
        "identity": ([b"Transfer-Encoding: identity"], SMUGGLED),
        "identity and a length": ([b"Transfer-Encoding: identity", b"Content-Length: 5"], b"hello"),
        "gzip": ([b"Transfer-Encoding: gzip"], b"hello"),
        "gzip, chunked": ([b"Transfer-Encoding: gzip, chunked"], _HELLO),
        "gzip and chunked in two lines": ([b"Transfer-Encoding: gzip", CHUNKED], _HELLO),
        "identity and chunked in two lines": ([b"Transfer-Encoding: identity", CHUNKED], _HELLO),
        "chunked, identity": ([b"Transfer-Encoding: chunked, identity"], _HELLO),
        "chunked, gzip": ([b"Transfer-Encoding: chunked, gzip"], _HELLO),
        "chunked, chunked": ([b"Transfer-Encoding: chunked, chunked"], _HELLO),
        "chunked twice": ([CHUNKED, CHUNKED], _HELLO),
        "cow": ([b"Transfer-Encoding: cow"], _LAST),
        "chunked with a parameter": ([b"Transfer-Encoding: chunked;q=1"], _HELLO),
        "quoted": ([b'Transfer-Encoding: "chunked"'], _HELLO),
        "chunked eof": ([b"Transfer-Encoding: chunkedeof"], _HELLO),
        "a letter missing": ([b"Transfer-Encoding: chunke"], _HELLO),
        "empty": ([b"Transfer-Encoding:"], SMUGGLED),
        "a comma before": ([b"Transfer-Encoding: , chunked"], _HELLO),
        "a vertical tab": ([b"Transfer-Encoding: \x0bchunked"], _HELLO),
        "a NUL": ([b"Transfer-Encoding: chunked\0"], _HELLO),
        "a space before the colon": ([b"Transfer-Encoding : chunked"], _HELLO),
        "a space before the name": ([b"X: a", b" Transfer-Encoding: chunked"], _HELLO),
        "folded": ([b"Transfer-Encoding:\r\n chunked"], _HELLO),
        "a bare CR before the name": ([b"X: a\rTransfer-Encoding: chunked"], _HELLO),
        "and a length with a space": ([CHUNKED, b"Content-Length : 5"], _HELLO),
    },
)
_posts("coding", ANY, {"underscore in the name": ([b"Transfer_Encoding: chunked"], b"")})
_add("coding: in HTTP/1.0", _head(CHUNKED, line=b"POST {p} HTTP/1.0") + _HELLO, REFUSED)
_add("coding: of a GET", _head(CHUNKED, line=b"GET {p} HTTP/1.1") + _HELLO, SERVED, b"hello")
_add("length: of a GET", _head(b"Content-Length: 5", line=b"GET {p} HTTP/1.1") + b"hello", SERVED, b"hello")
_add(
    "length: of a GET that looks like a request",
    _head(b"Content-Length: %d" % len(SMUGGLED), line=b"GET {p} HTTP/1.1") + SMUGGLED,
    SERVED,
    SMUGGLED,
)
_add("coding: and a length, of a GET", _head(b"Content-Length: 3", CHUNKED, line=b"GET {p} HTTP/1.1") + _LAST, REFUSED)

# Chunks: RFC 9112, 7.1 ------------------------------------------------------------------------------------------------

for _name, _body in {
    "two": b"2\r\nhe\r\n3\r\nllo\r\n0\r\n\r\n",
    "leading zeros": b"0005\r\nhello\r\n000\r\n\r\n",
    "capital digits": b"5\r\nhello\r\n00\r\n\r\n",
    "an extension": b"5;a=b\r\nhello\r\n0\r\n\r\n",
    "an extension without a value": b"5;a\r\nhello\r\n0;b\r\n\r\n",
    "a quoted extension": b'5;a="b;c"\r\nhello\r\n0\r\n\r\n',
    "a trailer": b"5\r\nhello\r\n0\r\nX-Trailer: a\r\n\r\n",
}.items():
    _posts("chunk", SERVED, {_name: ([CHUNKED], _body)}, b"hello")
_posts("chunk", SERVED, {"a request": ([CHUNKED], b"%x\r\n%b\r\n0\r\n\r\n" % (len(SMUGGLED), SMUGGLED))}, SMUGGLED)
for _name, _body in {
    "no digit": b"\r\nhello\r\n0\r\n\r\n",
    "letters": b"zz\r\nhello\r\n0\r\n\r\n",
    "signed": b"+5\r\nhello\r\n0\r\n\r\n",
    "negative": b"-5\r\nhello\r\n0\r\n\r\n",
    "a hexadecimal mark": b"0x5\r\nhello\r\n0\r\n\r\n",
    "a space before": b" 5\r\nhello\r\n0\r\n\r\n",
    "an underscore": b"0_5\r\nhello\r\n0\r\n\r\n",
    "beyond 64 bits": b"10000000000000005\r\nhello\r\n0\r\n\r\n",
    "seventeen digits": b"F" * 17 + b"\r\nhello\r\n0\r\n\r\n",
    "data too long": b"3\r\nhello\r\n0\r\n\r\n",
    "data too short": b"6\r\nhello\r\n0\r\n\r\n" + SMUGGLED,
    "no line break behind the data": b"5\r\nhello0\r\n\r\n",
    "a NUL in the size": b"5\0\r\nhello\r\n0\r\n\r\n",
    "a bare CR behind the size": b"5\rhello\r\n0\r\n\r\n",
    "two bytes for the line break": b"5\r\nhelloXX0\r\n\r\n",
    "a bare CR in the last one": b"5\r\nhello\r\n0\r\r\n\r\n",
    "a bad trailer": b"5\r\nhello\r\n0\r\nX Y\r\n\r\n",
    "a trailer with a bare CR": b"5\r\nhello\r\n0\r\nX: a\rb\r\n\r\n",
}.items():
    _posts("chunk", ANY, {_name: ([CHUNKED], _body)}, b"hello")
for _name, _body in {
    "a length as trailer": b"5\r\nhello\r\n0\r\nContent-Length: 9\r\n\r\n",
    "a host as trailer": b"5\r\nhello\r\n0\r\nHost: b\r\n\r\n",
    "bare LF behind the size": b"5\nhello\r\n0\r\n\r\n",
    "bare LF behind the data": b"5\r\nhello\n0\r\n\r\n",
    "bare LF at the end": b"5\r\nhello\r\n0\r\n\n",
    "a space behind the size": b"5 \r\nhello\r\n0\r\n\r\n",
    "a bare LF in an extension": b"5;a\nhello\r\n0\r\n\r\n",
    "a bare CR in an extension": b"5;a\rb\r\nhello\r\n0\r\n\r\n",
    "a NUL in an extension": b"5;a\0\r\nhello\r\n0\r\n\r\n",
    "an extension that is empty": b"5;\r\nhello\r\n0\r\n\r\n",
    "a tab behind the size": b"5\t\r\nhello\r\n0\r\n\r\n",
}.items():
    _posts("chunk", ANY, {_name: ([CHUNKED], _body)}, b"hello")

# The first line: RFC 9112, 3 ------------------------------------------------------------------------------------------

for _name, _line in {
    "a query": b"GET {p}?a=b HTTP/1.1",
    "an absolute target": b"GET http://a{p} HTTP/1.1",
    "an absolute target of another host": b"GET http://b{p} HTTP/1.1",
    "an empty line before": b"\r\nGET {p} HTTP/1.1",
    "PUT": b"PUT {p} HTTP/1.1",
    "DELETE": b"DELETE {p} HTTP/1.1",
    "PATCH": b"PATCH {p} HTTP/1.1",
    "OPTIONS": b"OPTIONS {p} HTTP/1.1",
    "PROPFIND": b"PROPFIND {p} HTTP/1.1",
    "HTTP/1.0": b"GET {p} HTTP/1.0",
}.items():
    _add(f"line: {_name}", _head(line=_line), SERVED)
for _name, _line in {
    "CONNECT": b"CONNECT {p} HTTP/1.1",
    "CONNECT of an authority": b"CONNECT a:443 HTTP/1.1",
    "TRACE": b"TRACE {p} HTTP/1.1",
    "HTTP/2.0": b"GET {p} HTTP/2.0",
    "HTTP/3.0": b"GET {p} HTTP/3.0",
    "HTTP/1.10": b"GET {p} HTTP/1.10",
    "HTTP/11": b"GET {p} HTTP/11",
    "HTTP/1,1": b"GET {p} HTTP/1,1",
    "HTTP/+1.1": b"GET {p} HTTP/+1.1",
    "HTTP/1.1 with a letter": b"GET {p} HTTP/1.1a",
    "http/1.1": b"GET {p} http/1.1",
    "ICE/1.0": b"GET {p} ICE/1.0",
    "no version": b"GET {p}",
    "no target": b"GET HTTP/1.1",
    "a space in the target": b"GET {p}/a b HTTP/1.1",
    "a tab in the target": b"GET {p}/a\tb HTTP/1.1",
    "a NUL in the target": b"GET {p}/\0 HTTP/1.1",
    "DEL in the target": b"GET {p}/\x7f HTTP/1.1",
    "a control byte in the target": b"GET {p}/\x01 HTTP/1.1",
    "a bare CR in the target": b"GET {p}/a\rb HTTP/1.1",
    "a tab for a space": b"GET\t{p}\tHTTP/1.1",
    "a small method": b"get {p} HTTP/1.1",
    "a method with a colon": b"GE:T {p} HTTP/1.1",
    "a method with a NUL": b"GE\0T {p} HTTP/1.1",
    "a relative target": b"GET rooms/a HTTP/1.1",
    "an asterisk of a GET": b"GET * HTTP/1.1",
    "an authority": b"GET a:80 HTTP/1.1",
    "PRI of HTTP/2": b"PRI * HTTP/2.0",
    "a word too many": b"GET {p} HTTP/1.1 HTTP/1.1",
    "a name before": b"\0GET {p} HTTP/1.1",
}.items():
    _add(f"line: {_name}", _head(line=_line), REFUSED)
for _name, _line in {
    "two spaces": b"GET  {p} HTTP/1.1",
    "an asterisk of OPTIONS": b"OPTIONS * HTTP/1.1",
    "a space behind": b"GET {p} HTTP/1.1 ",
    "an unknown method": b"FOO {p} HTTP/1.1",
    "a fragment": b"GET {p}#b HTTP/1.1",
    "a byte above 127": b"GET {p}/\xff HTTP/1.1",
    "a backslash": b"GET {p}\\b HTTP/1.1",
    "a quote": b'GET {p}/" HTTP/1.1',
    "user information": b"GET http://u@a{p} HTTP/1.1",
    "ten empty lines before": b"\r\n" * 10 + b"GET {p} HTTP/1.1",
    "a bare LF before": b"\nGET {p} HTTP/1.1",
    "a long target": b"GET {p}/" + b"a" * 100_000 + b" HTTP/1.1",
}.items():
    _add(f"line: {_name}", _head(line=_line), ANY)
_add("line: of HTTP/0.9", b"GET {p}\r\n", REFUSED)
_add("line: all with bare LF", b"GET {p} HTTP/1.1\nHost: a\n\n", ANY)

# Headers: RFC 9112, 5 -------------------------------------------------------------------------------------------------

_gets(
    "header",
    SERVED,
    {
        "empty value": b"X:",
        "a byte above 127": b"X: \xff\xfe",
        "a tab in a value": b"X: a\tb",
        "a comma": b"X: a, b",
        "all token characters": b"!#$%&'*+-.^_`|~09AZaz: a",
        "close": b"Connection: keep-alive",
    },
)
_gets(
    "header",
    REFUSED,
    {
        "a space before the colon": b"X : a",
        "no colon": b"X",
        "no name": b": a",
        "a space in the name": b"X Y: a",
        "a NUL in the name": b"X\0: a",
        "a NUL in the value": b"X: a\0b",
        "a bare CR in the value": b"X: a\rb",
        "a bare CR and a header": b"X: a\rContent-Length: 5",
        "a control byte in the name": b"X\x01: a",
        "a byte above 127 in the name": b"X\xff: a",
        "folded": b"X: a\r\n b",
        "a space before the first": b" X: a",
        "64 KiB in a line": b"X: " + b"a" * 70_000,
        "300 KiB in a line": b"X: " + b"a" * 300_000,
        "100 KiB in many lines": b"\r\n".join([b"X: " + b"a" * 1000] * 100),
        "4000 lines": b"\r\n".join([b"a:"] * 4000),
    },
)
_gets(
    "header",
    ANY,
    {
        "a control byte in the value": b"X: a\x01b",
        "DEL in the value": b"X: a\x7f",
        "a slash in the name": b"X/Y: a",
        "a bare LF": b"X: a\nY: b",
        "a bare LF and a length": b"X: a\nContent-Length: 0",
        "a bracket in the name": b"X[]: a",
    },
)

# Host: RFC 9112, 3.2 --------------------------------------------------------------------------------------------------

for _name, _host in {
    "a port": b"Host: a:8000",
    "an address": b"Host: 127.0.0.1",
    "an address of IPv6": b"Host: [::1]:80",
    "a dot behind": b"Host: a.b.",
    "an underscore": b"Host: a_b",
    "spaces around": b"Host:   a  ",
}.items():
    _add(f"host: {_name}", _head(line=b"GET {p} HTTP/1.1", host=_host), SERVED)
_add("host: none in HTTP/1.0", _head(line=b"GET {p} HTTP/1.0", host=b""), SERVED)
for _name, _host in {
    "none": b"X: a",
    "two": b"Host: a\r\nHost: b",
    "two that are the same": b"Host: a\r\nHost: a",
    "empty": b"Host:",
    "user information": b"Host: u@a/b",
    "a path": b"Host: a/b",
    "a query": b"Host: a/?b",
    "two dots": b"Host: a..b",
    "a space": b"Host: a b",
    "a tab": b"Host: a\tb",
    "a NUL": b"Host: a\0b",
    "an address without its end": b"Host: [::1",
}.items():
    _add(f"host: {_name}", _head(line=b"GET {p} HTTP/1.1", host=_host), REFUSED)
_add("host: two, of an absolute target", _head(line=b"GET http://a{p} HTTP/1.1", host=b"Host: a\r\nHost: b"), REFUSED)
_add("host: none, of an absolute target", _head(line=b"GET http://a{p} HTTP/1.1", host=b""), REFUSED)

# Upgrade, Expect, Connection: RFC 9110, 7.6, 7.8 and 10.1 -------------------------------------------------------------

_H2C = [b"Connection: Upgrade, HTTP2-Settings", b"Upgrade: h2c", b"HTTP2-Settings: AAMAAABkAARAAAAAAAIAAAAA"]
_posts(
    "upgrade",
    SERVED,
    {
        "h2c": ([*_H2C, b"Content-Length: 5"], b"hello"),
        "h2c, chunked": ([*_H2C, CHUNKED], _HELLO),
        "TLS": ([b"Connection: upgrade", b"Upgrade: TLS/1.0", b"Content-Length: 5"], b"hello"),
        "several": ([b"Connection: upgrade", b"Upgrade: h2c, foo/2", b"Content-Length: 5"], b"hello"),
        "in capitals": ([b"CONNECTION: UPGRADE", b"UPGRADE: H2C", b"Content-Length: 5"], b"hello"),
        "a WebSocket of a POST": ([b"Connection: upgrade", b"Upgrade: websocket", b"Content-Length: 5"], b"hello"),
    },
    b"hello",
)
_posts(
    "upgrade",
    ANY,
    {
        "without Connection": ([b"Upgrade: h2c", b"Content-Length: 5"], b"hello"),
        "a WebSocket without Connection": ([b"Upgrade: websocket", b"Content-Length: 5"], b"hello"),
    },
    b"hello",
)
_posts(
    "upgrade", ANY, {"Connection without Upgrade": ([b"Connection: upgrade", b"Content-Length: 5"], b"hello")}, b"hello"
)
_add("upgrade: h2c of a GET", _head(*_H2C, line=b"GET {p} HTTP/1.1"), SERVED)
_add("upgrade: h2c and a host that is none", _head(*_H2C, line=b"GET {p} HTTP/1.1", host=b"Host: a/b"), REFUSED)
_add("upgrade: h2c and two lengths", _head(*_H2C, b"Content-Length: 0", b"Content-Length: 5") + b"hello", REFUSED)
_add("upgrade: h2c, a length and a coding", _head(*_H2C, b"Content-Length: 5", CHUNKED) + _HELLO, REFUSED)
_add("upgrade: h2c of HTTP/1.0", _head(*_H2C, line=b"GET {p} HTTP/1.0"), ANY)
_posts("expect", ANY, {"100-continue": ([b"Expect: 100-continue", b"Content-Length: 5"], b"hello")}, b"hello")
_posts("expect", ANY, {"unknown": ([b"Expect: 200-ok", b"Content-Length: 5"], b"hello")}, b"hello")
_gets(
    "connection",
    SERVED,
    {
        "names the host": b"Connection: host",
        "names a cookie": b"Connection: cookie",
        "names nothing": b"Connection: ,",
        "names the epoch": b"Connection: x-link-epoch, x-pod-index",
    },
)
_posts(
    "connection",
    SERVED,
    {"names the length": ([b"Connection: content-length", b"Content-Length: 5"], b"hello")},
    b"hello",
)
_posts("connection", SERVED, {"names the coding": ([b"Connection: transfer-encoding", CHUNKED], _HELLO)}, b"hello")

# Headers that only ours may send --------------------------------------------------------------------------------------

_gets(
    "forged",
    SERVED,
    {
        "X-Forwarded-For": b"X-Forwarded-For: forged",
        "X_Forwarded_For": b"X_Forwarded_For: forged",
        "X-Forwarded-Proto": b"X-Forwarded-Proto: forged",
        "Forwarded": b"Forwarded: for=forged",
        "X-Link-Epoch": b"X-Link-Epoch: 9007199254740991",
        "X_Link_Epoch": b"X_Link_Epoch: 9007199254740991",
        "X-Pod-Index": b"X-Pod-Index: 77",
        "X-Sticky-Replayed": b"X-Sticky-Replayed: 1",
        "X-Accel-Redirect": b"X-Accel-Redirect: @owner",
        "X-Pod-Address": b"X-Pod-Address: 192.0.2.1:1",
        "Fly-Replay": b"fly-replay: instance=a",
    },
)
