"""Everything on disk: the layout and documents of a run folder, and whether files are complete."""
