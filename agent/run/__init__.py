"""What runs the agent: the online loop, evaluation, and all that lies in a run's folder."""
