"""From the command line to checked arguments."""
