"""What lies on disk: the run folder's layout and documents, and whether files are whole."""
