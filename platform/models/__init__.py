"""Networks, growing heads, and what is read out of a network's layers."""
