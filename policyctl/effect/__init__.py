"""What a policy does to traffic: exact, pure, offline. Nothing here reads, writes, uses a clock or is random."""
