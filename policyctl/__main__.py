"""`python -m policyctl` is `policyctl`."""

from policyctl.cli.main import main

if __name__ == "__main__":
    main()
