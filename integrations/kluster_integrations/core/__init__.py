"""What is true of kluster.ai. No module here imports a framework, and none imports an adapter."""
