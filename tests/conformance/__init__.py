"""The tests that every executor of the family passes, and what they stand on."""
