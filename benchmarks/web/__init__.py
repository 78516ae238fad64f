"""Web applications as they are run: processes under uvicorn, a proxy in front, and load from outside."""
