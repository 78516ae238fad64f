"""A Gradio app with ``gr.State``, which Gradio keeps for each session in one process's memory.

STICKY=1 STATEFUL_ROUTE_URL=redis://127.0.0.1 uvicorn app:app --port 8001   # and more of them, behind a round robin

What Gradio has of a session cannot be saved. So a process that is to end *lingers*: it gets no new sessions, and the
old ones are served, through the others, until their pages are closed or idle.
"""

from __future__ import annotations

import os
from typing import Any

import gradio as gr
from fastapi import FastAPI

STICKY = os.environ.get("STICKY", "1") == "1"  # "0": without, to see what is lost


def write(text: str, notes: list[str]) -> tuple[list[str], dict[str, Any]]:
    """Add a note to those of the session, and show all."""
    notes = [*notes, text]
    return notes, {"notes": notes, "pid": os.getpid()}


with gr.Blocks() as page:
    state = gr.State([])
    box = gr.Textbox(label="note")
    shown = gr.JSON()
    box.submit(write, [box, state], [state, shown], api_name="note")

app = FastAPI()

if STICKY:
    from stateful_route.web import JsonBody, Path, Query, StickyMiddleware

    session = [
        Query("session_hash"),  # the stream of results, uploads of newer pages
        Path("/gradio_api/heartbeat/{uid}"),
        JsonBody("/session_hash"),  # a call
    ]
    app.add_middleware(StickyMiddleware, service="gradio", uid=session, drain="linger", linger_idle=5.0)

app = gr.mount_gradio_app(app, page, path="/")
