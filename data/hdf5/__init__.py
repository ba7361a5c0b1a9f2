"""The HDF5 files: the data file between preprocessing and training, and files of probability maps."""
