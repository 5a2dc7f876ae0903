"""The agent: acting, learning from imagination, the online loop, and what it writes."""
