"""The spool: a server's answers on its own disk, between the request and the lake.

The server writes it, ``pipelines.predictions`` ships it, ``headrace trace`` reads it. This
package imports NumPy and the standard library only.
"""
