"""Radiographs, annotations and the files that hold them: reading, preprocessing, batches and submissions.

Nothing here depends on a network or a framework; those are in `core` and `backends`.
"""
