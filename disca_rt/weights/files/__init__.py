"""Files of tensors, one reader per format, and which file of a folder is meant."""
