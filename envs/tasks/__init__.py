"""Our own tasks, one file each."""
