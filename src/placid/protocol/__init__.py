"""What is said to the model: conditions, ways out, probes, rewritten histories, and when a conversation stops. Pure."""
