"""What was found of a server at one load, measured or simulated: in a file, as a table, on a page."""
