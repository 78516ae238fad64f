"""Background chores, one way for each.

- What is done again and again, in time with a grid: ``PeriodicTask``.
- Tasks that an object starts and ends, and nobody waits for: ``Tasks``. What one raises is logged.
- A task that somebody ends: ``cancel_and_wait``. One that must come to its end though its caller is cancelled:
  ``outlast``.
- The pauses between attempts: ``Backoff``, whose ``wait()`` is one.
- Tasks of one block: ``asyncio.TaskGroup``. ``asyncio.gather`` only for calls that are all awaited whatever one of them
  raises, and that a cancellation of the caller may cut off; it leaves the others running if one fails. A task group of
  anyio only around code of the application: it cancels again what keeps a cancellation for itself.

"""
