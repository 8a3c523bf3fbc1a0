"""`python -m potsherd` is the command `potsherd`."""

from potsherd.cli.main import main

if __name__ == "__main__":
    main()
