"""What a call and a streamed chunk cost on the client's side, next to peers: `python -m benchmarks`."""
