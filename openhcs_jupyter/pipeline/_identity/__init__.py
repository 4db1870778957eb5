"""How a fingerprint is made: a walk through a value, or a function and all that it refers to, into one hash.

`walk` goes through it; `values`, `objects` and `code` say what is taken in of each kind.
"""
