"""Training loops as somebody who knows the framework writes them, without this project.

Every module has `train(turn, network, batch_size, size, device)`: batches lie ready in memory, the loss of
each step is looked at one step later, and nothing else is done. Convolution, bias, ReLU, batch norm; BCE and
soft Dice; Adam. Where frameworks differ in a detail that costs no time (padding, epsilon), each has its own.
"""
