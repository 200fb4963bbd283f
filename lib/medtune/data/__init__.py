"""Raw files -> a data set: every row read, checked, split and counted."""
