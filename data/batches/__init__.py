"""Batches for training: splits and folds, sampling, augmentation, the loader."""
