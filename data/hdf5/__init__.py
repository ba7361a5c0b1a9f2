"""The HDF5 files: the data file between preprocessing and training, and the file of probability maps.

`file_format` has the data file's format, `file_writing` writes it, `store` reads it and `verification` checks
every value. The content is made in `data.preprocessing`.
"""
