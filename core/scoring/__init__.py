"""From probabilities to masks and scores: metrics, thresholds and their search, the record of an evaluation.

Nothing here runs a network or reads a data file: `core.tasks` does.
"""
