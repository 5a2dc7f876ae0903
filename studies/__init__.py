"""Studies: what runs the agent many times, measures it and draws the result."""
