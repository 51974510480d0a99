"""Code that the commands share: methods, recipes, runs and their results."""
