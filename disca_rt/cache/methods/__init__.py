"""The methods in the table of policies, by what they are about: a dictionary `METHODS` a file."""
