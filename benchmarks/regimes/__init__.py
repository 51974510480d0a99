"""Which method helps where."""
