"""What a network is: blocks, the plan of primitive operations that they lower to, its table.

No numbers are computed here. How a network is trained is in `core.backend.training_rules`.
"""
