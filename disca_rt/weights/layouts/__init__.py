"""Key maps from what files call their tensors to what the models call them, one file per layout."""
