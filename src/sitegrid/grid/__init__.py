"""Pure planning: observed objects in, wanted objects and status out. No I/O; the clock is an argument."""
