"""Basics for all parts: errors, command names, optional packages, random numbers, rounding, the system.

The modules know nothing about networks, images or the toolkit's files, and import no other part of `core`.
"""
