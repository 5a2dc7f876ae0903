"""Other packages' tasks, one file a package, and how such a package is imported and drawn with."""
