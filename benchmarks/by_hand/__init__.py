"""Training loops as an expert of each framework writes them, without this project.

Every module has `train(turn, network, batch_size, size, device, precision)`. Batches are in memory, the loss
of each step is read one step later, and nothing else is done. The loss is BCE and soft Dice; the optimiser is
Adam. TF32 is off in float32, as in ours, and on in tf32. In mixed precision layers and activations have 16
bits, sums and weights float32, and float16 has a scaled loss, as the frameworks' guides say; MXNet's has
float32 alone.
Details of `fcn` and `unet` that cost no time (padding, epsilon) are the framework's own. The networks from
the literature compute what ours do: `loss_with` gives a test their loss with our parameters.
"""
