"""What is seen while runs are running: displays, time left, trackers."""
