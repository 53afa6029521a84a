"""The one way for two processes to talk: named methods, bytes in, bytes out, both ends known by certificate.

:mod:`privet.transport.contract` is the seam, with an in-process twin and gRPC behind it.
"""
