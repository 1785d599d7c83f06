"""The page: a chat in the browser, with any model that the API serves.

It is a client of the API like any other: it asks over HTTP, and under the same limits.
"""
