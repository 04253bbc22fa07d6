"""`python -m kluster_integrations.cli`."""

from kluster_integrations.cli import main

if __name__ == "__main__":
    main()
