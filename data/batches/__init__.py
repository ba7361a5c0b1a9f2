"""Batches for training: splits and folds, the order of images in an epoch, augmentation, the loader.

The images come from `data.hdf5.store`. The translation of a configuration to these settings is in
`core.tasks.training_batches`.
"""
