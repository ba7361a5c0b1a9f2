"""From a folder of radiographs and an annotation table to one data file, safe to kill and start again."""
