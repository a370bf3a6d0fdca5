"""From a raw source to verified shards: read, plan, check, write, index, report."""
