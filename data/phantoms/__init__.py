"""Synthetic chest radiographs in the competition's layout."""
