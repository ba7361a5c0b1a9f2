"""Writing of files: whole or not at all, one writer at a time, to files, folders, pipes or standard output.

The modules know nothing about what is written, and import `core.base` only.
"""
