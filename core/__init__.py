"""What a network is and how it is trained, without a word about any framework."""
