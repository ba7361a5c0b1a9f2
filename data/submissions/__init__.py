"""Outputs in the formats of others: the competition's submission files and DICOM Segmentation objects.

Submissions are written, compared with the annotations, and checked for faults. Scores are computed in
`core.scoring`.
"""
