"""Radiographs, annotations and the files that hold them, without a word about any network."""
