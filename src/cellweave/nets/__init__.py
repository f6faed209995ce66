"""Networks: one file each, no targets, no losses, no files. All return a `NetOutput`."""
