"""Decoding of DICOM pixel data to stored values: headers, fragments, compressed streams, stored bits.

`frames.first_frame` is the entry point. `data.radiographs.grayscale` converts the stored values to what a
screen shows.
"""
