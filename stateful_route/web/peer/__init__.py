"""How the processes of a service reach each other: ASGI events of many requests over one connection."""
