"""What is asked of a server, and the definition of every figure."""
