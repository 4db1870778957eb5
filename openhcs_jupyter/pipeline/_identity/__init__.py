"""How a fingerprint is made: a walk through a value, or a function and all that it refers to, into one hash.

`walk` goes through it; `kinds` tells what a value is; `simple`, `values`, `objects`, `code` say what is taken in of it.
"""
