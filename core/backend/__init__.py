"""The contract between the toolkit and a framework, how backends are found, and what all of them share.

The frameworks themselves are in `backends/`.
"""
