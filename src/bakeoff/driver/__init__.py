"""Plan the runs, decide what runs next, start their processes, and resume."""
