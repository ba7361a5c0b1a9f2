"""Annotation tables: CSV files of image ids and run-length encoded masks.

`table` reads any such file, and `annotation_file` the competition's. `rle` encodes and decodes masks, and
`image_ids` matches ids with image files. Radiographs are in `data.radiographs`, and submissions in
`data.submissions`.
"""
