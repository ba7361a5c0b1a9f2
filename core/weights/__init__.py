"""Weights of other programs' networks, which a training begins with.

`files` reads a file, `names` knows how the zoos call their layers, `transfer` finds the arrays' places in a
network and refuses what does not fit, `start_files` keeps the result for `training.start_from`, `writing`
goes the other way.
"""
