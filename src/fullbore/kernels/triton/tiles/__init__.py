"""Code that runs on the device: Triton's own language, which has no types of Python's."""
