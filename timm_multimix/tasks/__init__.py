"""Training tasks for timm: the parts that need timm.task."""
