"""The local web viewer."""
