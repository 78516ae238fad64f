"""A Gradio app without a word about us: what ``gr.State`` holds is in the memory of one process.

stateful-route run --service notes \
    --uid query:session_hash,json-body:/session_hash,path:/gradio_api/heartbeat/{uid} \
    --port 8000 -- env GRADIO_SERVER_PORT={port} GRADIO_SSR_MODE=false python app.py
"""

from __future__ import annotations

import os
from typing import Any

import gradio as gr


def write(text: str, notes: list[str]) -> tuple[list[str], dict[str, Any]]:
    """Add a note to those of the session, and show all."""
    notes = [*notes, text]
    return notes, {"notes": notes, "pid": os.getpid()}


with gr.Blocks() as page:
    state = gr.State([])
    box = gr.Textbox(label="note")
    shown = gr.JSON()
    box.submit(write, [box, state], [state, shown], api_name="note")

if __name__ == "__main__":
    page.launch()
