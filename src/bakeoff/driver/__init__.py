"""Plans the runs, decides what runs next, starts their processes, and resumes."""
