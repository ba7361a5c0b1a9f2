"""The tasks that join models and data: predict, evaluate, search thresholds, train.

The commands and the Python interface (`pneumoseg`) both call these tasks, so that they do the same. The tasks
use neither a command line nor a terminal. A caller that shows progress passes a `progress.Watcher`.
"""
