"""What leaves: submission files, written and checked, and DICOM Segmentation objects."""
