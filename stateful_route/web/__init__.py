"""Any ASGI application right at several replicas: where the uid of a request is."""

from stateful_route.web.decide import StickyDecide
from stateful_route.web.gateway import StickyGateway
from stateful_route.web.middleware import StickyMiddleware
from stateful_route.web.serve.sticky import Sticky
from stateful_route.web.uids.body import JsonBody, McpParam
from stateful_route.web.uids.issued import IssuedSource, SignedCookie
from stateful_route.web.uids.jwt import Jwt
from stateful_route.web.uids.learned import JsonResponse, LearnedSource, Location, ResponseCookie, ResponseHeader
from stateful_route.web.uids.request import AnswerHead, RequestHead
from stateful_route.web.uids.sources import Cookie, Function, Header, Path, Query, Subprotocol, UidSource

__all__ = [
    "AnswerHead",
    "Cookie",
    "Function",
    "Header",
    "IssuedSource",
    "JsonBody",
    "JsonResponse",
    "Jwt",
    "LearnedSource",
    "Location",
    "McpParam",
    "Path",
    "Query",
    "RequestHead",
    "ResponseCookie",
    "ResponseHeader",
    "SignedCookie",
    "Sticky",
    "StickyDecide",
    "StickyGateway",
    "StickyMiddleware",
    "Subprotocol",
    "UidSource",
]
