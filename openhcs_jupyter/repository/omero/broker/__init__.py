"""The broker: hands out pixels' files, opened for reading, to whoever OMERO lets read them.

It runs under the account that may read OMERO's binary repository. Kernels do not, as they run whatever their users
type. A kernel sends its session and the ids of images over a Unix socket; the broker asks OMERO with that session,
opens the file and passes the descriptor. `protocol` is what both sides say, `gate` asks OMERO, `files` opens, `server`
serves, and `client` is the kernel's side.
"""
