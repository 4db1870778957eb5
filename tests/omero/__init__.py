"""OMERO, by unmodified clients against the stand-in; the same tests run against a server with ``make test-omero``."""
