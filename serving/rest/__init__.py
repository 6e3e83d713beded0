"""REST: translates requests for the data plane, and its answers and errors into what clients speak.

``dispatch`` takes every request: predictions it hands to a door (``infer``, ``predict``,
``invocations``) itself, all else to the FastAPI application of ``pages``.
"""
