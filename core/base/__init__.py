"""What every part uses: errors, command names, optional packages, random numbers, rounding, the system.

Nothing here knows networks, images or files of the toolkit. Imports nothing else of `core`.
"""
