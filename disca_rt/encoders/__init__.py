"""Text and image encoders: prompts become a conditioning. Those of the big models come here."""
