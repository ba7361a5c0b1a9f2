"""Networks, training, prediction and evaluation, independent of any framework.

The frameworks are in `backends`, and the data in `data`.
"""
