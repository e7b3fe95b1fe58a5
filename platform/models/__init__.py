"""Networks, growing heads, and access to the features of a network's layers."""
