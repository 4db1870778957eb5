"""A stand-in for OMERO.server, for tests only: real Ice, omero-py's own generated classes, a repository on disk.

It proves that our calls are well formed and that unmodified clients understand the answers. It does not prove that an
OMERO.server answers the same: the same tests run against a real one with ``make test-omero``.
"""
