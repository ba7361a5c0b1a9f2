"""Radiographs from DICOM files: find, read, convert to display values, resize.

The decoding of stored pixels is in `data.pixel_data`. Conversion to HDF5 is in `data.preprocessing`.
"""
