"""After training: drawing images."""
