"""What is checked before a release: `make release-check`, or `python -m release dist`."""
