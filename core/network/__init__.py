"""The specification of a network (blocks), its plan (primitive operations) and its summary table.

Nothing here computes with arrays. How a network is trained is in `core.backend.training_rules`.
"""
