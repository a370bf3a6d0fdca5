"""Where images lie: a folder, and one small file for each other place."""
