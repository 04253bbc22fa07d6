"""A soak: all kinds of calls over both doors for a long time, and nothing that grows, gets lost or gets mixed up."""
