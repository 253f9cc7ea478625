"""The rows of the table of policies, by what a method is about; one dictionary `ROWS` a file."""
