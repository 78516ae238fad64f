"""The page for operators: the pods of a service live, what happens to them, and where a uid is.

``stateful-route dashboard`` serves it. It needs the extra ``dashboard``.
"""
