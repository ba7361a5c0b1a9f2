"""From a folder of radiographs and an annotation table to one data file; a killed run can be continued.

`preprocessing` does the whole work, `conversion` makes one file's row, and `staging` keeps finished rows
until the data file is complete. The data file's format is in `data.hdf5`; radiographs are read in
`data.radiographs`.
"""
