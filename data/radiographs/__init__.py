"""DICOM files to radiographs: found, read, shown as intended, resized."""
