"""What a policy does to traffic: exact, pure, offline. Nothing here reads, writes, asks the time or draws by itself."""
