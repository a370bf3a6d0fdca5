"""Where shards are written: in this process, in several of this machine, or on the nodes of Ray."""
