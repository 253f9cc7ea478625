"""Training: imports the runtime's models, never the reverse."""
