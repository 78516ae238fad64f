"""The URLs of the small app in Django, which has no WebSockets of its own."""

from __future__ import annotations

from typing import Any

from django.http import JsonResponse, StreamingHttpResponse
from django.urls import path

from tests.web.frameworks import ticks, who


async def room(request: Any, uid: str) -> JsonResponse:
    return JsonResponse(who(request))


async def stream(request: Any, uid: str) -> StreamingHttpResponse:
    return StreamingHttpResponse(ticks(), content_type="text/event-stream")


urlpatterns = [path("rooms/<uid>/who", room), path("rooms/<uid>/stream", stream)]
