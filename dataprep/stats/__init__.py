"""Statistics of a source or a dataset, and how it would pack."""
