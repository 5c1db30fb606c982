"""Scale: the same fit and score cut into parts, for several processes and machines."""
