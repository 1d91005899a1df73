"""What is shown while a bakeoff is running: displays, time left, trackers."""
