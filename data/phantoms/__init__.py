"""Synthetic chest radiographs in the competition's layout: `anatomy` draws one, `data_set` writes many."""
