"""Training loops as an expert of each framework writes them, without this project.

Every module has `train(turn, network, batch_size, size, device)`. Batches are in memory, the loss of each
step is read one step later, and nothing else is done. The loss is BCE and soft Dice; the optimiser is Adam.
Details of `fcn` and `unet` that cost no time (padding, epsilon) are the framework's own. The networks from
the literature compute what ours do: `loss_with` gives a test their loss with our parameters.
"""
