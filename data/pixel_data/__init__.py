"""From a DICOM data set's bytes to the pixel values that were stored: headers, fragments, codecs.

What the values mean on a screen is in `data.radiographs.grayscale`.
"""
