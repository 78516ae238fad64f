"""Visitors of an unmodified Gradio app: the same as those of the other one."""

from __future__ import annotations

import sys

from examples.gradio_app.client import visit
from examples.harness import Example

EXAMPLES = (
    Example(
        name="Gradio under `run`",
        folder="gradio_unmodified",
        title="gr.State in an unmodified app, three copies behind nginx",
        command=("env", "GRADIO_SERVER_PORT={port}", "GRADIO_SSR_MODE=false", sys.executable, "app.py"),
        uid="query:session_hash,json-body:/session_hash,path:/gradio_api/heartbeat/{uid}",
        user=visit,
        users=6,
        needs=("gradio", "uvicorn", "httptools", "websockets"),
        environment={"GRADIO_ANALYTICS_ENABLED": "False", "GRADIO_HEARTBEAT_INTERVAL": "1"},
    ),
)
