"""Writing files: whole or absent, one writer at a time, to files, folders, pipes or standard output.

Nothing here knows what is written. Imports `core.base` alone.
"""
