"""What can be done with models and data: answer, evaluate, search thresholds, train.

Promises: the commands and the Python interface (`pneumoseg`) both call what is here, so that they do the
same. It joins data, models and scores, and knows neither a command line nor a terminal: who wants to show
what happens hands in a `watching.Watcher`.
"""
