"""From probabilities to masks and scores: metrics, thresholds and their search, the evaluation record.

Nothing here runs a network or reads a data file; `core.tasks` does.
"""
