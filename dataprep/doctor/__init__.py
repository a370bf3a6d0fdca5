"""What is wrong with a source, and what would repair it; and how two of them differ."""
