"""A Streamlit app without a word about us: ``st.session_state`` is in the memory of one process.

STATEFUL_ROUTE_COOKIE_SECRETS=... stateful-route run --service board --uid signed-cookie:sr,ttl=1800 --port 8000 -- \
    streamlit run app.py --server.port {port} --server.address 127.0.0.1 --server.headless true
"""

from __future__ import annotations

import os

import streamlit as st

st.session_state.setdefault("count", 0)
if st.button("add"):
    st.session_state.count += 1
file = st.file_uploader("file")
size = 0 if file is None else file.size
st.markdown(f"count={st.session_state.count} size={size} pid={os.getpid()} .")
