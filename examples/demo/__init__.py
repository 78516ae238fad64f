"""The demo: pods that hold state, gateways that route to them, and users who would notice a misroute.

``pod.py`` and ``gateway.py`` are written to be copied from. The rest starts them, sends the requests, and reports.
"""
