"""The holder: opens /dev/fuse, mounts, and keeps the descriptors, so that who serves them may be replaced at any time.

The only privileged process, and a small one: it reads no file of a volume. `docs/transports.md` says who does what,
and what happens when which process dies.
"""
