"""The processes of the soak: started, told, heard, and ended by their pid."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
import sys
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from benchmarks.soak.child import Part

_PATIENCE = 30.0


class Process:
    """One process, and the line of words to it."""

    def __init__(self, module: str, part: Part, log: Path, hear: Callable[[Process, str], None], index: int) -> None:
        self.name = part.name
        self.index = index
        self.expected_to_end = False
        self.part = part
        self._module = module
        self._log = log
        self._hear = hear
        self._answers: dict[str, asyncio.Future[dict[str, Any]]] = {}
        self._process: asyncio.subprocess.Process | None = None
        self._reading: asyncio.Task[None] | None = None

    def __repr__(self) -> str:
        return f"<{self.name} pid={self.pid} status={self.status}>"

    @property
    def pid(self) -> int:
        return 0 if self._process is None else self._process.pid

    @property
    def status(self) -> int | None:
        return None if self._process is None else self._process.returncode

    async def start(self, arguments: str) -> None:
        pipe = asyncio.subprocess.PIPE
        with self._log.open("ab") as log:
            self._process = await asyncio.create_subprocess_exec(
                sys.executable,
                "-m",
                self._module,
                arguments,
                stdin=pipe,
                stdout=pipe,
                stderr=log,
                limit=1 << 22,
                start_new_session=True,  # Ctrl-C in the terminal is for the soak, which ends it
            )
        self._answers["ready"] = asyncio.get_running_loop().create_future()
        self._reading = asyncio.create_task(self._read())
        await self.answer("ready")

    async def answer(self, word: str) -> dict[str, Any]:
        """Wait for the next line that begins with ``word``.

        Raises:
            TimeoutError: if none comes for long.
            EOFError: if the process ends before.

        """
        future = self._answers.setdefault(word, asyncio.get_running_loop().create_future())
        try:
            async with asyncio.timeout(_PATIENCE):
                return await future
        finally:
            self._answers.pop(word, None)

    async def ask(self, words: str, answer: str) -> dict[str, Any]:
        self._answers[answer] = asyncio.get_running_loop().create_future()
        self.tell(words)
        return await self.answer(answer)

    def tell(self, words: str) -> None:
        if self._process is not None and self._process.stdin is not None and self.status is None:
            self._process.stdin.write(f"{words}\n".encode())

    def send(self, number: signal.Signals) -> None:
        if self._process is not None and self.status is None:
            with contextlib.suppress(ProcessLookupError):
                os.kill(self.pid, number)

    async def ended(self, within: float) -> bool:
        """Wait for its end, and for all that it said; return whether it came."""
        if self._process is None or self._reading is None:
            return True
        done, _ = await asyncio.wait([self._reading], timeout=within)
        return bool(done)

    async def kill(self) -> None:
        self.expected_to_end = True
        self.send(signal.SIGKILL)
        await self.ended(_PATIENCE)

    async def _read(self) -> None:
        assert self._process is not None
        assert self._process.stdout is not None
        while line := (await self._process.stdout.readline()).decode():
            word, _, rest = line.partition(" ")
            if word in self._answers and not self._answers[word].done():
                self._answers[word].set_result(json.loads(rest))
            self._hear(self, line)
        await self._process.wait()
        for answer in self._answers.values():
            if not answer.done():
                answer.set_exception(EOFError(f"{self!r} has ended"))
        self._hear(self, "ended {}")
