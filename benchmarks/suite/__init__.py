"""Shared by the commands: methods, recipes, runs and their results."""
